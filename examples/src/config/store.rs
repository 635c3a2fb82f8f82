//! Where signed records are: a directory, or an etcd.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesh_source::{DirectoryStore, Store};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A store: the path of a directory, or `etcd: {endpoints, prefix, ca, certificate, key}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreConfig {
    /// A directory.
    Directory(PathBuf),
    /// An etcd.
    Etcd(EtcdConfig),
}

/// An etcd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EtcdConfig {
    /// The client URLs of its members, tried in turn.
    pub endpoints: Vec<String>,
    /// Where the fleet's keys begin: several fleets may share an etcd.
    #[serde(default = "default_prefix")]
    pub prefix: String,
    /// The file with the certificate that signs those of the members, PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// The file with this node's certificate, PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// The file with the certificate's secret key, PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
}

/// Why a store cannot be used as configured.
#[derive(Debug, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct StoreConfigError {
    /// The field, from the configuration's beginning.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

impl StoreConfig {
    /// Reads what a command line names: the path of a directory, or a file `….yaml` that says what `store` says in an agent's
    /// configuration. Relative paths in the file are relative to its directory.
    ///
    /// # Errors
    /// Returns what is wrong with the file.
    pub fn named(name: &str) -> Result<StoreConfig, String> {
        let path = Path::new(name);
        if !path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml") {
            return Ok(StoreConfig::from(path));
        }
        let text = std::fs::read_to_string(path).map_err(|error| format!("{name}: {error}"))?;
        let mut store: StoreConfig = serde_saphyr::from_str(&text).map_err(|error| format!("{name}: {error}"))?;
        let base = path.parent().unwrap_or(Path::new("."));
        store.paths().into_iter().for_each(|path| *path = base.join(&*path));
        let problems = store.problems(name);
        if problems.is_empty() { Ok(store) } else { Err(problems.join("; ")) }
    }

    /// Returns the paths in it.
    pub(super) fn paths(&mut self) -> Vec<&mut PathBuf> {
        match self {
            StoreConfig::Directory(path) => vec![path],
            StoreConfig::Etcd(etcd) => [&mut etcd.ca, &mut etcd.certificate, &mut etcd.key].into_iter().flatten().collect(),
        }
    }

    /// Returns what makes no sense, each beginning with the field below `field`.
    pub(super) fn problems(&self, field: &str) -> Vec<String> {
        let StoreConfig::Etcd(etcd) = self else { return Vec::new() };
        let mut problems = Vec::new();
        if etcd.endpoints.is_empty() {
            problems.push(format!("{field}.etcd.endpoints: name at least one member, as https://HOST:2379"));
        }
        let secure = etcd.endpoints.iter().any(|endpoint| endpoint.starts_with("https://"));
        for (name, file) in [("ca", &etcd.ca), ("certificate", &etcd.certificate), ("key", &etcd.key)] {
            match (secure, file) {
                (true, None) => problems.push(format!("{field}.etcd.{name}: endpoints with https:// need it")),
                (false, Some(_)) => problems.push(format!("{field}.etcd.{name}: only endpoints with https:// have a use for it")),
                _ => {}
            }
        }
        problems
    }

    /// Opens the store; the certificates are read now, an etcd is connected to when it is needed.
    ///
    /// # Errors
    /// Returns an error that names the field, below `field`.
    ///
    /// # Panics
    /// Panics outside of a tokio runtime, for an etcd.
    pub fn open(&self, field: &str) -> Result<Arc<dyn Store>, StoreConfigError> {
        match self {
            StoreConfig::Directory(path) => Ok(Arc::new(DirectoryStore::new(path))),
            StoreConfig::Etcd(etcd) => etcd.open(&format!("{field}.etcd")),
        }
    }
}

impl EtcdConfig {
    #[cfg(feature = "etcd")]
    fn open(&self, field: &str) -> Result<Arc<dyn Store>, StoreConfigError> {
        let read = |name: &str, file: &Option<PathBuf>| -> Result<Option<Vec<u8>>, StoreConfigError> {
            let Some(file) = file else { return Ok(None) };
            let wrong =
                |error| StoreConfigError { field: format!("{field}.{name}"), reason: format!("{}: {error}", file.display()) };
            std::fs::read(file).map(Some).map_err(wrong)
        };
        let files = (read("ca", &self.ca)?, read("certificate", &self.certificate)?, read("key", &self.key)?);
        let tls = match files {
            (Some(ca), Some(certificate), Some(key)) => Some(mesh_source::EtcdTls { ca, certificate, key }),
            _ => None,
        };
        let config = mesh_source::EtcdConfig { endpoints: self.endpoints.clone(), prefix: self.prefix.clone(), tls };
        let store = mesh_source::EtcdStore::new(&config);
        let store = store.map_err(|error| StoreConfigError { field: field.to_owned(), reason: error.to_string() })?;
        Ok(Arc::new(store))
    }

    #[cfg(not(feature = "etcd"))]
    fn open(&self, field: &str) -> Result<Arc<dyn Store>, StoreConfigError> {
        Err(StoreConfigError { field: field.to_owned(), reason: "this program was built without the feature `etcd`".to_owned() })
    }
}

fn default_prefix() -> String {
    "/landbridge".to_owned()
}

impl From<&Path> for StoreConfig {
    fn from(path: &Path) -> StoreConfig {
        StoreConfig::Directory(path.to_owned())
    }
}

impl fmt::Display for StoreConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreConfig::Directory(path) => write!(f, "{}", path.display()),
            StoreConfig::Etcd(etcd) => write!(f, "etcd {}", etcd.endpoints.join(",")),
        }
    }
}

/// `etcd: …`, as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    etcd: EtcdConfig,
}

impl Serialize for StoreConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            StoreConfig::Directory(path) => path.serialize(serializer),
            StoreConfig::Etcd(etcd) => Written { etcd: etcd.clone() }.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for StoreConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<StoreConfig, D::Error> {
        struct PathOrEtcd;
        impl<'de> Visitor<'de> for PathOrEtcd {
            type Value = StoreConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the path of a directory, or etcd: {endpoints, prefix, ca, certificate, key}")
            }

            fn visit_str<E>(self, path: &str) -> Result<StoreConfig, E> {
                Ok(StoreConfig::Directory(path.into()))
            }

            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<StoreConfig, M::Error> {
                Written::deserialize(MapAccessDeserializer::new(map)).map(|written| StoreConfig::Etcd(written.etcd))
            }
        }
        deserializer.deserialize_any(PathOrEtcd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<StoreConfig, String> {
        serde_saphyr::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_store_is_a_path_or_an_etcd() {
        assert_eq!(read("store"), Ok(StoreConfig::Directory("store".into())));
        let text = "etcd: {endpoints: [\"https://a:2379\"], ca: ca.pem, certificate: node.pem, key: node.key}";
        let store = read(text).expect("valid");
        let StoreConfig::Etcd(etcd) = &store else { panic!("{store:?}") };
        assert_eq!((etcd.prefix.as_str(), etcd.key.as_deref()), ("/landbridge", Some(Path::new("node.key"))));
        assert!(store.problems("store").is_empty());
        let written = serde_saphyr::to_string(&store).expect("written");
        assert_eq!(read(&written), Ok(store));
        for (text, wrong) in [
            ("{}", "etcd"),
            ("{etcd: {}}", "endpoints"),
            ("{etcd: {endpoints: [], port: 2379}}", "port"),
            ("{etc: {endpoints: []}}", "etc"),
            ("[a]", "path of a directory"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(wrong), "{text}: {error}");
        }
        let problems = |text: &str| read(text).expect("a form").problems("mirror.from.west.store");
        assert!(problems("{etcd: {endpoints: []}}")[0].starts_with("mirror.from.west.store.etcd.endpoints: "));
        assert_eq!(problems("{etcd: {endpoints: [\"https://a:1\"], ca: x}}").len(), 2);
        assert_eq!(problems("{etcd: {endpoints: [\"http://a:1\"], ca: x}}").len(), 1);
    }

    #[test]
    fn a_command_line_names_a_directory_or_a_file_that_says_etcd() {
        let directory = tempfile::tempdir().expect("a directory");
        let name = |file: &str| directory.path().join(file).display().to_string();
        assert_eq!(StoreConfig::named("some/where"), Ok(StoreConfig::Directory("some/where".into())));
        std::fs::write(name("a.yaml"), "etcd: {endpoints: [\"https://a:1\"], ca: ca.pem, certificate: b, key: /c}")
            .expect("written");
        let StoreConfig::Etcd(etcd) = StoreConfig::named(&name("a.yaml")).expect("a store") else { panic!("no etcd") };
        assert_eq!((etcd.ca, etcd.key), (Some(directory.path().join("ca.pem")), Some("/c".into())));
        std::fs::write(name("b.yaml"), "etcd: {endpoints: [\"https://a:1\"]}").expect("written");
        assert!(StoreConfig::named(&name("b.yaml")).expect_err("no certificates").contains("b.yaml.etcd.ca: "));
        assert!(StoreConfig::named(&name("c.yaml")).expect_err("it is not there").contains("c.yaml: "));
    }

    #[test]
    fn a_missing_certificate_is_named() {
        let store = read("etcd: {endpoints: [\"https://a:2379\"], ca: /no/where.pem, certificate: b, key: c}").expect("valid");
        let error = store.open("store").expect_err("no such file").to_string();
        assert!(error.starts_with("store.etcd") && (error.contains("/no/where.pem") || error.contains("without")), "{error}");
    }
}
