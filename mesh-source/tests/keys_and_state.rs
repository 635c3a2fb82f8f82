//! Key files and the last known state.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use mesh_source::keyfiles::{KeyFileError, create_signing_key, node_key, read_secret, read_signing_key, write_secret};
use mesh_source::statefile::{Loaded, load, save_atomic, set_aside};

#[test]
fn keys_are_private_and_never_written_over() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("root.key");
    let key = create_signing_key(&path).expect("made");
    assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
    assert_eq!(read_signing_key(&path).expect("read").public(), key.public());
    assert!(matches!(create_signing_key(&path), Err(KeyFileError::Exists { .. })));
    assert_eq!(read_signing_key(&path).expect("still there").public(), key.public());
    assert_eq!(fs::read_dir(directory.path()).expect("read").count(), 1, "no temporary file is left");

    for mode in [0o640, 0o604, 0o660, 0o644] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
        let error = read_secret(&path).expect_err("readable for others").to_string();
        assert!(error.contains(&format!("{mode:04o}")) && error.contains("chmod 600"), "{error}");
    }
    for text in ["", "short", "AAAA"] {
        let bad = directory.path().join(format!("bad-{}", text.len()));
        fs::write(&bad, text).expect("written");
        fs::set_permissions(&bad, fs::Permissions::from_mode(0o600)).expect("set");
        assert!(matches!(read_secret(&bad), Err(KeyFileError::Form { .. })), "{text}");
        assert!(node_key(&bad).is_err(), "a file that holds no key is not replaced");
    }
    let missing = directory.path().join("no/where.key");
    assert!(matches!(write_secret(&missing, &[1; 32]), Err(KeyFileError::Write { .. })));
}

#[test]
fn a_node_key_is_made_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("node.key");
    let first = node_key(&path).expect("made");
    assert_eq!(node_key(&path).expect("read"), first);
    assert_ne!(*first, [0; 32]);
}

#[test]
fn a_damaged_state_is_set_aside_and_never_read() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("state");
    assert_eq!(load(&path).expect("nothing"), Loaded::Missing);
    for content in [b"".as_slice(), b"one", b"two"] {
        save_atomic(&path, content).expect("saved");
        assert_eq!(load(&path).expect("loaded"), Loaded::State(content.to_vec()));
    }
    let whole = fs::read(&path).expect("there");
    let mut flipped = whole.clone();
    *flipped.last_mut().expect("not empty") ^= 1;
    for (number, damaged) in [&whole[..whole.len() - 1], &flipped, b"", b"LBSTATE1"].into_iter().enumerate() {
        fs::write(&path, damaged).expect("written");
        let aside = directory.path().join(format!("state.corrupt-{}", number + 1));
        assert_eq!(load(&path).expect("set aside"), Loaded::Corrupt(aside.clone()));
        assert_eq!(fs::read(&aside).expect("kept"), damaged);
        assert_eq!(load(&path).expect("nothing"), Loaded::Missing);
    }
    save_atomic(&path, b"not understood").expect("saved");
    assert!(set_aside(&path).expect("renamed").ends_with("state.corrupt-5"));
    assert!(save_atomic(&directory.path().join("no/where"), b"x").expect_err("no directory").to_string().contains("no/where"));
}
