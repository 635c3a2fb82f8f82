//! The demo's fleet, inside the program: the demo runs from wherever the program lies.

use std::fs;
use std::io;

use tempfile::TempDir;

macro_rules! shipped {
    ($($path:literal),* $(,)?) => {
        /// The demo's manifests, by path.
        pub const FILES: &[(&str, &str)] = &[$(($path, include_str!(concat!("../../demo/", $path)))),*];
    };
}

shipped!(
    "fleet.yaml",
    "mesh.yaml",
    "fleet/guests-stay-out.yaml",
    "clusters/east/cart-0.yaml",
    "clusters/east/cart-service.yaml",
    "clusters/east/namespaces.yaml",
    "clusters/east/nodes.yaml",
    "clusters/east/outsider-0.yaml",
    "clusters/east/web-0.yaml",
    "clusters/west/db-0.yaml",
    "clusters/west/db-export.yaml",
    "clusters/west/db-in.yaml",
    "clusters/west/db-service.yaml",
    "clusters/west/namespaces.yaml",
    "clusters/west/nodes.yaml",
    "clusters/west/report-0.yaml",
);

/// Writes the demo's fleet into a directory of its own, which is removed when the value is dropped.
pub fn unpack() -> io::Result<TempDir> {
    let directory = tempfile::Builder::new().prefix("landbridge-demo-").tempdir()?;
    for (path, text) in FILES {
        let path = directory.path().join(path);
        fs::create_dir_all(path.parent().expect("below the directory"))?;
        fs::write(path, text)?;
    }
    Ok(directory)
}
