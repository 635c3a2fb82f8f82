//! A fleet in network namespaces on one machine, for the command line and the tests of a Landbridge mesh.
