//! The committed data set, and input that is not as it should be.

#![allow(clippy::unwrap_used)]
use super::*;
use std::fs;

#[test]
fn the_committed_data_set_is_whole() {
    let digits = Digits::read(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/data"))).unwrap();
    assert_eq!((digits.train.len(), digits.test.len()), (1438, 359));
    for images in [&digits.train, &digits.test] {
        assert_eq!(images.pixels.len(), images.len() * PIXELS);
        assert!((0..10).all(|digit| { images.labels.iter().filter(|label| **label == digit).count() >= 25 }));
    }
}

#[test]
fn train_and_test_files_are_taken_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let line = |label| format!("{}{label}\n", "16,".repeat(PIXELS));
    fs::write(folder.path().join("train.csv"), line(3) + "\n" + &line(4)).unwrap();
    assert!(matches!(Digits::read(folder.path()), Err(DigitsError::NotFound(_))));
    fs::write(folder.path().join("test.csv"), line(5)).unwrap();
    let digits = Digits::read(folder.path()).unwrap();
    assert_eq!((digits.train.labels, digits.test.labels), (vec![3, 4], vec![5]));
    assert_eq!(digits.train.pixels, vec![1.0; 2 * PIXELS]);
}

#[test]
fn bad_input_is_named_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let good = format!("{}7\n", "0,".repeat(PIXELS));
    for (text, expected) in [
        (format!("{good}1,2,3\n"), "line 2: 3 fields, expected 64 pixels and the digit"),
        (good.replacen('0', "17", 1), "line 1: pixel \"17\" is not a number in 0..16"),
        (good.replacen('7', "x", 1), "line 1: label \"x\" is not a digit"),
        (good.clone(), "has 1 images, at least 10 are needed"),
    ] {
        fs::write(folder.path().join("digits.csv"), text).unwrap();
        let message = Digits::read(folder.path()).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
    fs::remove_file(folder.path().join("digits.csv")).unwrap();
    fs::write(folder.path().join("digits.csv.gz"), "not gzip").unwrap();
    assert!(Digits::read(folder.path()).unwrap_err().to_string().starts_with("cannot read "));
}
