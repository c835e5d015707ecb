//! `forebay rehearse`: two sites on this machine under load; one is lost, the other takes over, the first comes back.

pub mod command;
mod proxy;
mod record;
mod rehearsal;
pub mod site;
