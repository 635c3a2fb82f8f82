//! The thread that starts a lab's processes.
//!
//! Children of a lab that is not kept are to die with it, even when it is killed with SIGKILL. The kernel offers that
//! as PR_SET_PDEATHSIG, but means the death of the parent *thread*: a child spawned from a short-lived thread would be
//! killed at random. So one thread spawns them all, and lives as long as its [`Spawner`].

use std::io;
use std::process::{Child, Command};
use std::sync::mpsc;

use crate::sys;

type Job = (Command, mpsc::Sender<io::Result<Child>>);

/// A handle to the spawning thread; the thread, and the children with it, ends when this is dropped.
#[derive(Debug)]
pub(super) struct Spawner(mpsc::Sender<Job>);

impl Spawner {
    pub(super) fn start() -> io::Result<Spawner> {
        let (jobs, queue) = mpsc::channel::<Job>();
        std::thread::Builder::new().name("lab-spawner".to_owned()).spawn(move || {
            for (mut command, answer) in queue {
                sys::die_with_spawning_thread(&mut command);
                // Nobody waits any more: then nobody would own the child either, and dropping it is right.
                let _ = answer.send(command.spawn());
            }
        })?;
        Ok(Spawner(jobs))
    }

    pub(super) fn spawn(&self, command: Command) -> io::Result<Child> {
        let (answer, child) = mpsc::channel();
        let gone = || io::Error::other("the spawning thread has ended");
        self.0.send((command, answer)).map_err(|_| gone())?;
        child.recv().map_err(|_| gone())?
    }
}
