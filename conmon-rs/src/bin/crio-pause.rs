//! Process 1 of a pod's shared PID namespace: it reaps what the containers leave behind and ends when it is told to.

fn main() {
    conmon_rs::serve_as_init();
}
