"""Custom components: empty frames that an ES module of `assets/` fills. No data ever passes through their templates."""
