"""Reports of runs: one HTML page and pictures, from the files that runs leave and nothing else."""
