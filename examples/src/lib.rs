//! The programs of a Landbridge mesh: the node agent, the command line, and small embedding examples.
