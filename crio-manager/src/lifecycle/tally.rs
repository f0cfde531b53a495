//! What only the lifecycle sees, counted since the daemon began. Whoever wants the numbers reads them; nobody is told.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

/// The numbers. A clone is the same ones.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Containers that have ended, by whether anybody knows how.
    pub exits: Family<[(&'static str, &'static str); 1], Counter>,
    /// Containers that ran out of memory.
    pub out_of_memory: Counter,
    /// Objects that the reaper is still after.
    pub half_made: Gauge,
    /// Times that it could not remove one yet.
    pub reap_retries: Counter,
    /// Events that watchers have not read in time.
    pub events_missed: Counter,
    /// How often the caller of a creation was told that it is still under way, by its step. It only grows; the field's
    /// name for it has not the ending of a counter.
    pub stalled: Family<[(&'static str, &'static str); 1], Gauge>,
}
