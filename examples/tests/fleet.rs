//! A fleet in git: what `meshctl fleet` writes, signs and refuses.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::meshctl;
use serde_json::Value;

/// Runs `meshctl fleet`; returns whether it succeeded, and what it said.
fn fleet(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(meshctl()).arg("fleet").args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

fn succeed(arguments: &[&str]) -> String {
    let (succeeded, text) = fleet(arguments);
    assert!(succeeded, "{arguments:?}\n{text}");
    text
}

fn fail(arguments: &[&str]) -> String {
    let (succeeded, text) = fleet(arguments);
    assert!(!succeeded, "{arguments:?}\n{text}");
    text
}

/// A fleet's directory, and machines of its own for the root and each cluster.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let place = Place { directory: tempfile::tempdir().unwrap() };
        succeed(&["init", &place.git(), "--name", "demo", "--root-key", &place.path("root-machine.key")]);
        place
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    fn git(&self) -> String {
        self.path("git")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join("git").join(name)
    }

    fn join(&self, cluster: &str, more: &[&str]) -> (bool, String) {
        let number = cluster.len();
        let (git, key, prefix) = (self.git(), self.path(&format!("{cluster}.key")), format!("10.{number}.0.0/16"));
        let all = ["join", &git, "--cluster", cluster, "--key", &key, "--prefix", &prefix, "--namespace", "shop"];
        fleet(&[&all, more].concat())
    }

    fn grant(&self) -> String {
        succeed(&["grant", &self.git(), "--root-key", &self.path("root-machine.key")])
    }

    fn verify(&self) -> (bool, String) {
        fleet(&["verify", &self.git()])
    }

    /// Every file that is signed, with its content.
    fn signed(&self) -> BTreeMap<String, Vec<u8>> {
        let entries = fs::read_dir(self.file("signed/fleet")).unwrap().map(|entry| entry.unwrap().path());
        entries.map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap())).collect()
    }
}

fn mode(path: &str) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_cluster_joins_with_one_command_on_each_side_and_one_file() {
    let place = Place::new();
    let (joined, text) = place.join("east", &["--export", "shop/*", "--attribute", "region=eu"]);
    assert!(joined, "{text}");
    let secret = fs::read_to_string(place.path("east.key")).unwrap();
    assert!(!text.contains(secret.trim()) && mode(&place.path("east.key")) == 0o600, "{text}");
    let request = fs::read_to_string(place.file("clusters/east.yaml")).unwrap();
    assert!(request.contains("key: ") && request.contains("\"region\":\"eu\"") && !request.contains(secret.trim()), "{request}");
    let files = |directory: PathBuf| fs::read_dir(directory).unwrap().count();
    assert_eq!((files(place.file("clusters")), place.file("signed").exists()), (1, false), "one file, and nothing is signed");

    // Again: nothing is different. Otherwise: the file is what is edited.
    assert!(place.join("east", &["--export", "shop/*", "--attribute", "region=eu"]).1.contains("as asked already"));
    assert!(place.join("east", &["--export", "shop/db"]).1.contains("edit it"));
    assert_eq!(fs::read_to_string(place.file("clusters/east.yaml")).unwrap(), request);

    let text = place.grant();
    assert!(text.contains("signed fleet/grant__east.rec"), "{text}");
    let before = place.signed();
    assert!(before.contains_key("policies.rec") && before.len() == 2);
    let (clean, text) = place.verify();
    assert!(clean && text.contains("0 error(s), 0 warning(s)"), "{text}");

    // A second cluster: no file of the first is touched, and what stands is not signed again.
    assert!(place.join("westerly", &[]).0);
    assert!(place.verify().1.contains("fleet/grant__westerly.rec is not signed"), "{}", place.verify().1);
    place.grant();
    let after = place.signed();
    assert_eq!((after.len(), &after["grant__east.rec"]), (3, &before["grant__east.rec"]));
    assert!(place.grant().contains("3 stand(s) as signed before"));
    assert_eq!(place.signed(), after, "a second run is no noise in git");

    // An edit counts: its grant is another one, and agents take it for the newer one.
    fs::write(place.file("clusters/east.yaml"), request.replace("shop/*", "shop/db")).unwrap();
    place.grant();
    assert_ne!(place.signed()["grant__east.rec"], after["grant__east.rec"]);
    let shown: Value = serde_json::from_str(&succeed(&[
        "show",
        &place.git(),
        "--store",
        &place.git().replace("git", "git/signed"),
        "--output",
        "json",
    ]))
    .unwrap();
    assert_eq!(shown["clusters"]["east"]["live"]["grant"], "in force", "{shown:#}");
    assert_eq!((&shown["in_force"]["active"], &shown["in_force"]["clusters"]), (&0.into(), &2.into()));
    assert!(place.verify().0);
}

#[test]
fn a_request_that_makes_no_sense_leaves_no_key_behind() {
    let place = Place::new();
    assert!(place.join("east", &[]).0);
    let key = place.path("new.key");
    let git = place.git();
    let join = |more: &[&str]| fail(&[&["join", &git, "--cluster", "north", "--key", &key], more].concat());
    for (more, say) in [
        (&["--prefix", "10.4.2.0/24"][..], "overlaps 10.4.0.0/16 of cluster east"),
        (&["--prefix", "10.9.0.0/16", "--namespace", "Shop"], "namespaces[0]"),
        (&["--prefix", "10.9.0.0/16", "--export", "db"], "exports[0]"),
        (&["--prefix", "10.9.0.0/16", "--attribute", "region"], "KEY=VALUE"),
        (&["--prefix", "10.9.0.0/16", "--attribute", "cluster=x"], "attributes.cluster"),
        (&["--prefix", "10.9.0.0/16", "--not-after", "soon"], "not_after"),
        (&[], "--prefix"),
    ] {
        let text = join(more);
        assert!(text.contains(say), "{more:?}: {text}");
    }
    let inside = place.file("north.key");
    let text = fail(&["join", &git, "--cluster", "north", "--prefix", "10.9.0.0/16", "--key", inside.to_str().unwrap()]);
    assert!(text.contains("goes to git"), "{text}");
    let nowhere = place.path("nowhere");
    let text = fail(&["join", &nowhere, "--cluster", "north", "--prefix", "10.9.0.0/16", "--key", &key]);
    assert!(text.contains("north.yaml"), "{text}");
    assert!(!Path::new(&key).exists() && !inside.exists() && !place.file("clusters/north.yaml").exists());
    // Without the fleet's git at hand, a file to send.
    let out = place.path("north.yaml");
    succeed(&["join", &out, "--cluster", "north", "--prefix", "10.9.0.0/16", "--key", &key]);
    fs::copy(&out, place.file("clusters/north.yaml")).unwrap();
    assert!(place.grant().contains("grant__north"));
}

#[test]
fn a_revoked_cluster_is_out_until_a_new_epoch_whatever_git_looks_like() {
    let place = Place::new();
    assert!(place.join("east", &[]).0 && place.join("westerly", &[]).0);
    place.grant();
    let (git, root) = (place.git(), place.path("root-machine.key"));
    let revoke = |more: &[&str]| fleet(&[&["revoke", &git, "--root-key", &root], more].concat());
    assert!(revoke(&["nobody"]).1.contains("known: east"), "{}", revoke(&["nobody"]).1);
    assert!(revoke(&["east", "--epoch", "0"]).1.contains("give 1 or more"));
    // A broken manifest keeps nobody in the fleet.
    fs::create_dir_all(place.file("clusters/east")).unwrap();
    fs::write(place.file("clusters/east/bad.yaml"), "kind: [").unwrap();
    let (done, text) = revoke(&["east"]);
    assert!(done && text.contains("signed fleet/revocation__east.rec") && text.contains("epoch: 1"), "{text}");
    fs::remove_file(place.file("clusters/east/bad.yaml")).unwrap();
    assert!(fs::read_to_string(place.file("revoked.yaml")).unwrap().ends_with("\neast: 1\n"));
    let before = place.signed();
    assert!(revoke(&["east"]).1.contains("stand(s) as signed before"));
    assert!(revoke(&["east", "--epoch", "7"]).0 && revoke(&["east", "--epoch", "3"]).1.contains("below 7 are revoked already"));
    assert_eq!(place.signed()["grant__east.rec"], before["grant__east.rec"]);

    // Signing again does not let it in; the new epoch does.
    let text = place.grant();
    assert!(text.contains("cluster east is revoked below epoch 7"), "{text}");
    let live = || -> Value {
        let store = place.file("signed");
        let text = succeed(&["show", &git, "--store", store.to_str().unwrap(), "--output", "json"]);
        serde_json::from_str::<Value>(&text).unwrap()["clusters"]["east"]["live"]["grant"].clone()
    };
    assert_eq!(live(), "revoked");
    let file = place.file("clusters/east.yaml");
    fs::write(&file, fs::read_to_string(&file).unwrap() + "epoch: 7\n").unwrap();
    assert!(place.grant().contains("signed fleet/grant__east.rec"));
    assert_eq!(live(), "in force");
    let (clean, text) = place.verify();
    assert!(clean && text.contains("0 error(s), 0 warning(s)"), "{text}");

    // A fleet is built again from git alone: fresh stores have the grants and the revocation.
    fs::remove_dir_all(place.file("signed")).unwrap();
    place.grant();
    assert_eq!(place.signed().len(), 4);
}

#[test]
fn verify_tells_what_agents_would_refuse_and_what_is_in_danger() {
    let place = Place::new();
    assert!(place.join("east", &["--not-after", "2000-01-01T00:00:00Z"]).0);
    let text = fail(&["grant", &place.git(), "--root-key", &place.path("root-machine.key")]);
    assert!(text.contains("not_after"), "{text}");
    let file = place.file("clusters/east.yaml");
    fs::write(&file, fs::read_to_string(&file).unwrap().replace("2000-01", "2099-01")).unwrap();
    place.grant();
    assert!(place.verify().0);
    let wrong = |change: &dyn Fn(), say: &str, place: &Place| {
        change();
        let (clean, text) = place.verify();
        assert!(!clean && text.contains(say), "{say}: {text}");
    };
    let grant = place.file("signed/fleet/grant__east.rec");
    let good = fs::read(&grant).unwrap();
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    wrong(&|| fs::write(&grant, &bad).unwrap(), "fleet/grant__east.rec: record: bad-signature", &place);
    wrong(&|| fs::write(&grant, b"x").unwrap(), "malformed", &place);
    fs::write(&grant, &good).unwrap();
    // Another root's key is not this fleet's, neither for signing nor for checking.
    let other = place.path("other.key");
    succeed(&["keygen", &other]);
    assert!(fail(&["grant", &place.git(), "--root-key", &other]).contains("the fleet's root is"));
    let store = place.file("signed");
    let text = fail(&["verify", store.to_str().unwrap()]);
    assert!(text.contains("--root KEY"), "{text}");
    let named =
        fs::read_to_string(&file).unwrap().lines().find_map(|line| line.strip_prefix("key: ").map(str::to_owned)).unwrap();
    assert!(fail(&["verify", store.to_str().unwrap(), "--root", &named]).contains("foreign-fleet"));

    // A secret in the directory: told, an error where others can read it, and worse where git has it.
    let secret = place.file("notes.txt");
    fs::copy(&other, &secret).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let (clean, text) = place.verify();
    assert!(clean && text.contains("nothing keeps it out of git"), "{text}");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).unwrap();
    wrong(&|| (), "lets others read a secret key", &place);
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    // As `git add` writes an entry of its index: the path, ended by a zero byte.
    fs::create_dir_all(place.file(".git")).unwrap();
    wrong(&|| fs::write(place.file(".git/index"), b"DIRC....notes.txt\0\0").unwrap(), "a secret key is in git", &place);
    // The form of a key in a file that git is told to leave alone is as it should be.
    fs::remove_file(place.file(".git/index")).unwrap();
    fs::rename(&secret, place.file("kept.key")).unwrap();
    assert!(place.verify().1.contains("0 error(s), 0 warning(s)"), "{}", place.verify().1);
}

#[test]
fn everything_is_signed_anew_when_the_root_says_so() {
    let place = Place::new();
    assert!(place.join("east", &[]).0);
    place.grant();
    let before = place.signed();
    succeed(&["rotate", &place.git(), "--serials", "--root-key", &place.path("root-machine.key")]);
    let after = place.signed();
    assert!(before.keys().eq(after.keys()) && before.iter().all(|(name, bytes)| after[name] != *bytes));
    assert!(place.verify().0);
}

#[test]
fn a_clusters_key_is_replaced_in_two_steps() {
    let place = Place::new();
    assert!(place.join("east", &[]).0);
    place.grant();
    let (git, key, file) = (place.git(), place.path("east.key"), place.file("clusters/east.yaml"));
    let rotate = |step: &str| fleet(&["rotate", &git, "--cluster", "east", "--key", &key, step]);
    let field = |name: &str| {
        let text = fs::read_to_string(&file).unwrap();
        text.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")).map(str::to_owned))
    };
    assert!(rotate("--promote").1.contains("begin with"));
    let (old, text) = (field("key"), rotate("--next"));
    assert!(text.0, "{}", text.1);
    let (next, secret) = (field("next_key"), fs::read_to_string(place.path("east.key.next")).unwrap());
    assert!(next.is_some() && next != old && field("key") == old && mode(&place.path("east.key.next")) == 0o600);
    assert!(!text.1.contains(secret.trim()));
    let before = fs::read(&file).unwrap();
    assert!(rotate("--next").0 && fs::read(&file).unwrap() == before, "a second time nothing is different");
    let grants = |place: &Place| place.signed()["grant__east.rec"].clone();
    let first = grants(&place);
    place.grant();
    assert_ne!(grants(&place), first);
    assert!(rotate("--promote").0);
    assert_eq!((field("key"), field("next_key")), (next, None));
    assert_eq!(fs::read_to_string(&key).unwrap(), secret);
    assert!(place.grant().contains("signed fleet/grant__east.rec") && place.verify().0);
    // On another machine, with another key: nothing is touched.
    succeed(&["keygen", &place.path("other.key")]);
    let text = fail(&["rotate", &git, "--cluster", "east", "--key", &place.path("other.key"), "--next"]);
    assert!(text.contains("is this the machine") && !Path::new(&place.path("other.key.next")).exists(), "{text}");
    assert!(fail(&["rotate", &git, "--cluster", "nobody", "--key", &key, "--next"]).contains("nobody.yaml"));
}
