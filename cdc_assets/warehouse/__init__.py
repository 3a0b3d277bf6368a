"""The warehouse's end: tables, rows, and the checkpoint that commits with them."""
