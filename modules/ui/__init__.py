"""The page: theme, tabs, forms and the views that are drawn by the browser. Imports services and core only."""
