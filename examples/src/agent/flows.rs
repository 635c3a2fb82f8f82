//! The latest flow records, for whoever asks: a bounded ring, and a stream of what comes.

use std::collections::VecDeque;
use std::sync::Mutex;

use mesh_core::FlowRecord;
use tokio::sync::broadcast;

/// How many records are kept for `GET /flows`; older ones are gone.
const KEPT: usize = 10_000;
/// How far a reader of the stream may fall behind before it loses records, which it is told.
const STREAMED: usize = 4_096;

/// The flow records of this node.
#[derive(Debug)]
pub struct FlowLog {
    kept: Mutex<VecDeque<FlowRecord>>,
    stream: broadcast::Sender<FlowRecord>,
}

impl FlowLog {
    /// Makes an empty log.
    pub fn new() -> FlowLog {
        FlowLog { kept: Mutex::new(VecDeque::new()), stream: broadcast::Sender::new(STREAMED) }
    }

    /// Takes a record.
    pub fn push(&self, record: FlowRecord) {
        let mut kept = self.kept.lock().expect("no holder of this lock panics");
        if kept.len() == KEPT {
            kept.pop_front();
        }
        // Under the lock, so that `latest_and_stream` sees each record exactly once; nobody listening is no error.
        let _ = self.stream.send(record.clone());
        kept.push_back(record);
    }

    /// Returns the latest `limit` records, oldest first, and the stream of those that follow.
    pub fn latest_and_stream(&self, limit: usize) -> (Vec<FlowRecord>, broadcast::Receiver<FlowRecord>) {
        let kept = self.kept.lock().expect("no holder of this lock panics");
        let skip = kept.len().saturating_sub(limit);
        (kept.iter().skip(skip).cloned().collect(), self.stream.subscribe())
    }
}

impl Default for FlowLog {
    fn default() -> FlowLog {
        FlowLog::new()
    }
}
