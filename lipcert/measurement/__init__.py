"""The command `lipcert.measure`: radii, attacks and convergence of one network, for the pictures of a report."""
