"""The areas of the page, one file each with a `build(app)` that makes its components. Tabs do not know each other."""
