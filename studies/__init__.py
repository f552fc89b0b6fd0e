"""Studies: which runs answer a question, and the table that they make."""
