"""The command `lipcert.certify`: a network and a data set in, a record of certificates out."""
