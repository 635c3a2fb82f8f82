//! The examples say what they are meant to say.

#[path = "../examples/names.rs"]
#[allow(dead_code, reason = "the example's own main")]
mod names;

#[test]
fn names_for_programs() {
    let mut out = Vec::new();
    names::run(&mut out).expect("the example runs");
    let expected = "\
        db.shop.svc.clusterset.local is 10.1.0.5\n\
        db.shop.svc.clusterset.local is 10.1.0.6\n\
        db-1.east.db.shop.svc.clusterset.local is 10.1.0.6\n\
        _pg._tcp.db.shop.svc.cluster.local is port 5432 of db-0.db.shop.svc.cluster.local.\n\
        _pg._tcp.db.shop.svc.cluster.local is port 5432 of db-1.db.shop.svc.cluster.local.\n\
        6.0.1.10.in-addr.arpa is db-1.db.shop.svc.cluster.local.\n\
        6.0.1.10.in-addr.arpa is db-1.east.db.shop.svc.clusterset.local.\n\
        cache.shop.svc.cluster.local does not exist\n\
        \n\
        after the change:\n\
        db.shop.svc.cluster.local is now 10.1.0.5\n\
        db.shop.svc.clusterset.local is now 10.1.0.5\n";
    assert_eq!(String::from_utf8(out).expect("text"), expected);
}
