//! The planted bugs can still be planted. That the simulator finds each is `cargo sim planted`, which builds each one.

use gpujob_sim::run::planted::{applies, patches, scenario};

#[test]
fn every_patch_applies_and_says_where_it_shows() {
    let all = patches().expect("patches");
    assert!(all.len() >= 7, "{} patches", all.len());
    for (name, patch) in all {
        scenario(&patch).expect("where to look for it first");
        if let Err(why) = applies(&patch).expect("git") {
            panic!("{name} no longer applies, mend sim/bugs/{name}.patch: {why}");
        }
    }
}
