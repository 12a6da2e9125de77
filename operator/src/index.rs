//! Which objects of a cache belong to what: looked up by a key instead of read through. At 10,000 jobs a look at one of them must
//! not walk the pods of all others.
//!
//! An index holds names, never objects: it is asked where to look, and the cache has the last word. It may name too many, never
//! too few: what is new is in the index before anyone is told of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};

/// Namespace, if any, and name.
pub type Place = (Option<Box<str>>, Box<str>);

/// Objects of one kind by their keys.
#[derive(Debug, Default)]
pub struct Index(Mutex<Maps>);

#[derive(Debug, Default)]
struct Maps {
    places: BTreeMap<Box<str>, BTreeSet<Place>>,
    /// The keys that each object was last seen with.
    keys: BTreeMap<Place, Vec<Box<str>>>,
}

impl Index {
    fn lock(&self) -> MutexGuard<'_, Maps> {
        self.0.lock().expect("no panic holds this lock")
    }

    /// The objects with this key, in the order of their names.
    #[must_use]
    pub fn find(&self, key: &str) -> Vec<Place> {
        self.lock().places.get(key).into_iter().flatten().cloned().collect()
    }

    /// The object has these keys now and no others.
    pub(crate) fn set(&self, place: Place, keys: Vec<String>) {
        let mut maps = self.lock();
        maps.remove(&place);
        maps.add(place, keys);
    }

    /// The object is about to have these keys; until then it has those that it had.
    pub(crate) fn add(&self, place: Place, keys: Vec<String>) {
        self.lock().add(place, keys);
    }

    /// The object is gone.
    pub(crate) fn remove(&self, place: &Place) {
        self.lock().remove(place);
    }

    /// These are all objects that there are.
    pub(crate) fn replace(&self, all: impl Iterator<Item = (Place, Vec<String>)>) {
        let mut fresh = Maps::default();
        all.for_each(|(place, keys)| fresh.add(place, keys));
        *self.lock() = fresh;
    }
}

impl Maps {
    fn add(&mut self, place: Place, keys: Vec<String>) {
        let known = self.keys.entry(place.clone()).or_default();
        for key in keys.into_iter().map(String::into_boxed_str) {
            if !known.contains(&key) {
                self.places.entry(key.clone()).or_default().insert(place.clone());
                known.push(key);
            }
        }
    }

    fn remove(&mut self, place: &Place) {
        for key in self.keys.remove(place).into_iter().flatten() {
            if let Some(places) = self.places.get_mut(&key) {
                places.remove(place);
                if places.is_empty() {
                    self.places.remove(&key);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str) -> Place {
        (Some("ns".into()), name.into())
    }

    fn keys(all: &[&str]) -> Vec<String> {
        all.iter().map(|k| (*k).to_owned()).collect()
    }

    #[test]
    fn an_object_is_found_by_its_keys_as_they_are_now() {
        let index = Index::default();
        index.set(place("b"), keys(&["x", "y"]));
        index.set(place("a"), keys(&["x"]));
        assert_eq!(index.find("x"), [place("a"), place("b")]);
        index.set(place("b"), keys(&["y"]));
        assert_eq!((index.find("x"), index.find("y")), (vec![place("a")], vec![place("b")]));
        // While a cache is filled again both its old and its new content may be asked for.
        index.add(place("b"), keys(&["z"]));
        assert_eq!((index.find("y"), index.find("z")), (vec![place("b")], vec![place("b")]));
        index.replace([(place("b"), keys(&["z"]))].into_iter());
        assert!(index.find("x").is_empty() && index.find("y").is_empty());
        index.remove(&place("b"));
        assert!(index.find("z").is_empty() && index.lock().places.is_empty() && index.lock().keys.is_empty(), "nothing lingers");
    }
}
