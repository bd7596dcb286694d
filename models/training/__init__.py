"""What the small networks that ship are trained for: digits to name, to find and to cut out."""
