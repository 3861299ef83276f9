"""What becomes of a choice: a table for machines, a summary, and a page for people."""
