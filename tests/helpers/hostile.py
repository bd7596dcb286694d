"""Text as a stranger could put it into a record."""

HOSTILE = "<script>alert('1')</script>&amp;$x_1$\"'"
