//! What the first system's diary records as having gone wrong, where the core is concerned.

use super::world::World;

#[test]
fn smoke() {
    let mut world = World::with_leader(3);
    world.propose(1, "x").unwrap();
    world.settle();
    world.pass(100);
    assert_eq!(world.commit_index(3), 2);
}
