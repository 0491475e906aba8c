"""Results: the table of runs, the pages on it, and what keeps both."""
