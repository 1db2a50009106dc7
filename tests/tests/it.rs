//! The integration tests: one binary, a module a subject.

mod it {
    mod at_rest;
    mod catalogue;
    mod crash;
    mod feedback;
    mod follow_ups;
    mod full_disk;
    mod hanging_up;
    mod leak;
    mod ledger;
    mod log;
    mod log_entries;
    mod log_fraud;
    mod main_flow;
    mod membership;
    mod metrics;
    mod planted;
    mod postgres;
    mod probing;
    mod publishing;
    mod replicas;
    mod service;
    mod transport;
    mod witness;
}
