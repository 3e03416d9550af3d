"""Tools that build what Paddock ships; none of them runs in the server."""
