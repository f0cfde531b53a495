//! Nothing is left by a wipe, and what it could not remove is for the next one.

use super::*;

/// The daemon's tasks have ended with it: nothing of it writes any more.
fn left_by_a_dead_daemon(node: &Arc<FakeNode>) -> ContainerId {
    let node = node.clone();
    let daemon = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async { running(&lifecycle(&node)).await.plan.id.clone() })
    });
    daemon.join().unwrap()
}

#[tokio::test]
async fn a_wipe_leaves_nothing_of_what_ran_and_what_was_half_made() {
    let node = FakeNode::new(Fails::Never);
    left_by_a_dead_daemon(&node);
    assert_ne!(node.held(), NOTHING);
    lifecycle(&node).wipe().await.unwrap();
    assert_eq!(node.held(), NOTHING);
    lifecycle(&node).wipe().await.unwrap();
}

#[tokio::test]
async fn what_a_wipe_could_not_remove_is_named_and_gone_with_the_next() {
    let mut refused = 0;
    for step in 0..MORE_THAN_ALL_STEPS {
        let node = FakeNode::new(Fails::Releasing(step));
        left_by_a_dead_daemon(&node);
        if let Err(error) = lifecycle(&node).wipe().await {
            assert!(error.to_string().starts_with("wipe: left behind: "), "{error}");
            refused += 1;
        }
        lifecycle(&node).wipe().await.unwrap();
        assert_eq!(node.held(), NOTHING, "after a refusal at step {step}");
    }
    assert!(refused > 5, "{refused}");
}

#[tokio::test]
async fn what_nobody_can_take_hold_of_is_not_called_wiped() {
    let node = FakeNode::new(Fails::Never);
    let id = left_by_a_dead_daemon(&node);
    node.blind.store(true, Ordering::SeqCst);
    let error = lifecycle(&node).wipe().await.unwrap_err().to_string();
    assert!(error.contains(id.as_str()), "{error}");
    node.blind.store(false, Ordering::SeqCst);
    lifecycle(&node).wipe().await.unwrap();
}
