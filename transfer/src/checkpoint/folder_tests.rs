#![allow(clippy::unwrap_used)]
use super::*;
use std::io::Read;
use std::os::unix::fs::symlink;

fn taken(root: &Path) -> Vec<Item> {
    snapshot(root, &HashMap::new(), Duration::ZERO).unwrap()
}

#[test]
fn everything_but_what_is_unfinished() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir_all(at("deep/empty")).unwrap();
    for name in ["deep/a", "b.partial", "c.tmp", ".metadata", ".gpujob-restore"] {
        fs::write(at(name), name).unwrap();
    }
    symlink("deep/a", at("latest")).unwrap();
    symlink("/nowhere", at("broken")).unwrap();
    let items = taken(folder.path());
    let paths: Vec<_> = items.iter().map(|i| i.path.as_str()).collect();
    assert_eq!(paths, [".metadata", "broken", "deep", "deep/a", "deep/empty", "latest"]);
    assert!(matches!(&items[5].kind, Seen::Link(target) if *target == "deep/a"));
    assert!(taken(&at("missing")).is_empty());
}

#[test]
fn folders_are_followed_however_deep() {
    let folder = tempfile::tempdir().unwrap();
    let deep = vec!["d"; 200].join("/");
    fs::create_dir_all(folder.path().join(&deep)).unwrap();
    fs::write(folder.path().join(&deep).join("model"), "1").unwrap();
    // A link around is a link, not a way.
    symlink("..", folder.path().join("d/up")).unwrap();
    let items = taken(folder.path());
    assert_eq!(items.len(), 202);
    assert!(items.iter().any(|item| item.path == format!("{deep}/model") && matches!(item.kind, Seen::File(Some(_)))));
}

#[test]
fn what_was_taken_survives_renames_over_it_and_its_removal() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("a"), "old").unwrap();
    fs::write(at("b"), "gone").unwrap();
    let items = taken(folder.path());
    fs::write(at("a.partial"), "new").unwrap();
    fs::rename(at("a.partial"), at("a")).unwrap();
    fs::remove_file(at("b")).unwrap();
    for (item, want) in items.into_iter().zip(["old", "gone"]) {
        let Seen::File(Some(mut file)) = item.kind else { panic!() };
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, want);
        assert!(unchanged(&item.about, &file.metadata().unwrap()));
    }
}

#[test]
fn a_young_file_and_one_that_was_replaced_are_changing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    fs::write(&path, "1").unwrap();
    let young = snapshot(folder.path(), &HashMap::new(), Duration::from_secs(60));
    assert!(matches!(young, Err(NoSnapshot::Changing(_))), "{young:?}");
    let seen = fs::metadata(&path).unwrap();
    fs::remove_file(&path).unwrap();
    symlink("/etc/hostname", &path).unwrap();
    assert!(matches!(open(&path, &seen), Err(NoSnapshot::Changing(_))));
}

#[test]
fn a_known_file_is_not_opened_under_its_new_name_either() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a"), "1").unwrap();
    let stamp = Stamp::of(&fs::metadata(folder.path().join("a")).unwrap());
    let content = Content { size: 1, pieces: vec![] };
    fs::rename(folder.path().join("a"), folder.path().join("b")).unwrap();
    let items = snapshot(folder.path(), &HashMap::from([(stamp, content.clone())]), Duration::ZERO).unwrap();
    assert!(matches!(&items[0].kind, Seen::Known(c) if *c == content));
}
