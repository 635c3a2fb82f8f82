//! Where the facts of a Landbridge mesh come from: directories of manifests, stores of signed records.
