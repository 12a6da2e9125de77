//! The head and what is deleted under it, model-checked: every interleaving of two attempts' processes, one of them started again, with
//! lost answers, writes that arrive late, and deletes that arrive at any later moment.
//!
//! A conditional write is answered, or lands and its answer is lost, or lands at any later moment on the version that was read, if that
//! still is there. A process may sleep before any step, for ever too.

use super::head::{Head, Kept, Move, Writer, claim, publish};
use stateright::{Checker, Model, Property};
use std::collections::BTreeSet;

/// An object: who made it, and its number.
type Object = (usize, u64);

/// Which write of the head: who, and its number.
type Version = (String, u64);

fn version(head: Option<&Head>) -> Option<Version> {
    head.map(|head| (head.process.clone(), head.seq))
}

/// Where a process is in its program.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum At {
    Claim,
    /// It uploads an object and names it beside what the newest checkpoint has: nothing that is unchanged is sent again.
    Upload,
    Publish(Object),
    /// It lists what is not named, and sends deletes.
    Collect,
    Done,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Process {
    at: At,
    /// The head as this process last knew it to be its own.
    view: Option<Head>,
    /// Its write whose answer it does not know.
    wrote: Option<Head>,
    saves: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    head: Option<Head>,
    objects: BTreeSet<Object>,
    /// Conditional writes that were sent and have not arrived: on which version, and what.
    late: Vec<(Option<Version>, Head)>,
    /// Deletes that were sent and have not arrived.
    deletes: BTreeSet<Object>,
    processes: Vec<Process>,
    /// Whether a lower attempt wrote after a higher one.
    lowered: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Act {
    Step(usize),
    /// The same, but the answer to its write is lost.
    Lose(usize),
    /// The same, but its write arrives at some later moment, if ever.
    Delay(usize),
    Land(usize),
    Delete(Object),
}

struct Race {
    /// Attempt and pod of each process; one of a pod that is started again begins once the one before it has ended.
    processes: Vec<(u32, &'static str)>,
    /// Whether a process leaves a higher attempt's objects alone.
    spares_higher: bool,
    /// Most writes that are under way at once.
    late: usize,
}

/// What a checkpoint consists of, written into its manifest's name: the objects by process and number.
fn named(head: Option<&Head>) -> BTreeSet<Object> {
    let of = |kept: &Kept| -> Vec<Object> {
        let pair = |text: &str| text.split_once('.').and_then(|(p, n)| Some((p.parse().ok()?, n.parse().ok()?)));
        kept.manifest.split(' ').filter_map(pair).collect()
    };
    head.into_iter().flat_map(|head| head.kept.iter().flat_map(of)).collect()
}

/// What becomes of a conditional write.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Answered,
    Lost,
    Delayed,
}

impl World {
    fn put(&mut self, on: &Option<Version>, head: Head) {
        if *on != version(self.head.as_ref()) {
            return;
        }
        self.lowered |= self.head.as_ref().is_some_and(|was| was.attempt > head.attempt);
        self.head = Some(head);
    }
}

impl Race {
    fn writer(&self, index: usize) -> Writer {
        let (attempt, pod) = self.processes[index];
        Writer { attempt, pod_uid: pod.into(), process: index.to_string() }
    }

    fn checkpoint(&self, process: &Process, index: usize, new: Object) -> Kept {
        let newest = process.view.as_ref().and_then(|head| head.kept.last());
        // It keeps one file of the newest checkpoint and replaces the other.
        let unchanged = newest.and_then(|kept| kept.manifest.split(' ').next_back()).unwrap_or_default();
        let number = newest.map_or(0, |kept| kept.number) + 1;
        let manifest = format!("{unchanged} {}.{}", new.0, new.1);
        Kept { attempt: self.writer(index).attempt, number, manifest, sha256: String::new(), files: 2, bytes: 2 }
    }

    /// What a process that acts on the epoch wants to write.
    fn decide(&self, world: &World, index: usize) -> Move {
        let process = &world.processes[index];
        let me = self.writer(index);
        match &process.at {
            At::Claim => claim(&me, world.head.as_ref(), true),
            At::Publish(new) => publish(&me, world.head.as_ref(), &self.checkpoint(process, index, *new), 1),
            at => unreachable!("{at:?} does not ask the head"),
        }
    }

    fn ask(&self, world: &mut World, index: usize, how: How) -> Option<()> {
        if let (Some(wrote), Some(found)) = (&world.processes[index].wrote, &world.head)
            && found.is_write(wrote)
        {
            self.written(world, index);
            return (how == How::Answered).then_some(());
        }
        match self.decide(world, index) {
            Move::Write(head) => {
                world.processes[index].wrote = Some(head.clone());
                let on = version(world.head.as_ref());
                if how != How::Delayed {
                    world.put(&on, head);
                } else if world.late.len() < self.late && !world.late.contains(&(on.clone(), head.clone())) {
                    world.late.push((on, head));
                } else {
                    return None;
                }
                if how == How::Answered {
                    self.written(world, index);
                }
            }
            _ if how != How::Answered => return None,
            Move::Holds => self.written(world, index),
            Move::Revoked(_) => world.processes[index].at = At::Done,
        }
        Some(())
    }

    /// A write of this process is known to have happened.
    fn written(&self, world: &mut World, index: usize) {
        let process = &mut world.processes[index];
        process.view = world.head.clone();
        process.wrote = None;
        process.at = match process.at {
            At::Claim => At::Upload,
            _ => At::Collect,
        };
    }
}

impl Model for Race {
    type State = World;
    type Action = Act;

    fn init_states(&self) -> Vec<World> {
        let process = Process { at: At::Claim, view: None, wrote: None, saves: 0 };
        let processes = vec![process; self.processes.len()];
        vec![World { head: None, objects: BTreeSet::new(), late: vec![], deletes: BTreeSet::new(), processes, lowered: false }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Act>) {
        for (index, process) in world.processes.iter().enumerate() {
            if process.at != At::Done {
                actions.extend([Act::Step(index), Act::Lose(index), Act::Delay(index)]);
            }
        }
        actions.extend((0..world.late.len()).map(Act::Land));
        actions.extend(world.deletes.iter().map(|object| Act::Delete(*object)));
    }

    fn next_state(&self, world: &World, act: Act) -> Option<World> {
        let mut world = world.clone();
        let (index, how) = match act {
            Act::Land(late) => {
                let (on, head) = world.late.remove(late);
                world.put(&on, head);
                return Some(world);
            }
            Act::Delete(object) => {
                world.deletes.remove(&object);
                world.objects.remove(&object);
                return Some(world);
            }
            Act::Step(index) => (index, How::Answered),
            Act::Lose(index) => (index, How::Lost),
            Act::Delay(index) => (index, How::Delayed),
        };
        // The next process of a pod is started when this one is dead.
        for before in 0..index {
            if self.processes[before].1 == self.processes[index].1 {
                world.processes[before].at = At::Done;
            }
        }
        match world.processes[index].at.clone() {
            At::Claim | At::Publish(_) => self.ask(&mut world, index, how)?,
            _ if how != How::Answered => return None,
            At::Upload => {
                let object = (index, world.processes[index].saves);
                world.objects.insert(object);
                world.processes[index].saves += 1;
                world.processes[index].at = At::Publish(object);
            }
            At::Collect => {
                let process = &world.processes[index];
                let keep = named(process.view.as_ref());
                let mine = self.processes[index].0;
                let old = |object: &Object| !self.spares_higher || self.processes[object.0].0 <= mine;
                let garbage: Vec<Object> = world.objects.iter().filter(|o| !keep.contains(o) && old(o)).copied().collect();
                world.deletes.extend(garbage);
                world.processes[index].at = if world.processes[index].saves < 2 { At::Upload } else { At::Done };
            }
            At::Done => return None,
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("every kept checkpoint is whole", |_, world: &World| named(world.head.as_ref()).is_subset(&world.objects)),
            Property::always("a lower attempt writes nothing after a higher one", |_, world: &World| !world.lowered),
            Property::sometimes("a zombie is refused", |race: &Race, world: &World| {
                world.processes[0].at == At::Done && world.processes[0].saves == 1 && race.processes[0].0 == 1
            }),
            Property::sometimes("the last attempt's second checkpoint refers to its first", |_, world: &World| {
                world.head.as_ref().is_some_and(|h| h.attempt == 2 && h.kept.iter().any(|k| k.manifest.matches('.').count() == 2))
            }),
        ]
    }
}

fn explore(spares_higher: bool, late: usize, processes: Vec<(u32, &'static str)>) -> impl Checker<Race> {
    let found = Race { processes, spares_higher, late }.checker().spawn_bfs().join();
    println!("{} states", found.unique_state_count());
    found
}

#[test]
fn two_attempts_one_of_them_a_zombie() {
    explore(true, 2, vec![(1, "p"), (2, "q")]).assert_properties();
}

#[test]
fn a_sidecar_that_was_killed_is_started_again_beside_the_next_attempt() {
    explore(true, 1, vec![(1, "p"), (1, "p"), (2, "q")]).assert_properties();
}

#[test]
fn the_model_can_fail() {
    let found = explore(false, 1, vec![(1, "p"), (2, "q")]);
    assert!(found.discovery("every kept checkpoint is whole").is_some());
}
