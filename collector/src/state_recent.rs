//! Questions to the state about spans, events, lines and hosts, each with where its answer goes.

use std::time::Duration;

use sandscope_proto::query::{
    EventsRequest, EventsResponse, HostRow, LinesRequest, LinesResponse, Span, TracesRequest, TracesResponse,
};

use crate::live::{Live, Selected};
use crate::state::Reply;

/// Entries, and how many more there are.
pub(crate) type Cut<T> = (Vec<T>, u64);

/// What is asked.
pub(crate) enum Question {
    Traces(TracesRequest, Selected, Reply<TracesResponse>),
    Trace(u128, Selected, Reply<Cut<Span>>),
    Events(EventsRequest, Selected, Reply<EventsResponse>),
    /// Of a trace, if one is named.
    Lines(LinesRequest, Option<u128>, Selected, Reply<LinesResponse>),
    Hosts(Selected, Reply<Cut<HostRow>>),
    /// Boots of the live hosts that run a workload.
    Boots(Selected, Reply<Vec<Box<str>>>),
}

/// An answer, with where it goes.
pub(crate) enum Answer {
    Traces(Reply<TracesResponse>, TracesResponse),
    Trace(Reply<Cut<Span>>, Cut<Span>),
    Events(Reply<EventsResponse>, EventsResponse),
    Lines(Reply<LinesResponse>, LinesResponse),
    Hosts(Reply<Cut<HostRow>>, Cut<HostRow>),
    Boots(Reply<Vec<Box<str>>>, Vec<Box<str>>),
}

impl Question {
    pub(crate) fn answer(self, now: Duration, live: &Live) -> Answer {
        match self {
            Self::Traces(request, selected, reply) => Answer::Traces(reply, live.traces(&request, &selected)),
            Self::Trace(id, selected, reply) => Answer::Trace(reply, live.trace(id, &selected)),
            Self::Events(request, selected, reply) => {
                Answer::Events(reply, live.find_events(&request, &selected))
            }
            Self::Lines(request, trace, selected, reply) => {
                Answer::Lines(reply, live.find_lines(&request, trace, &selected))
            }
            Self::Hosts(selected, reply) => Answer::Hosts(reply, live.hosts(now, &selected)),
            Self::Boots(selected, reply) => Answer::Boots(reply, live.boots(now, &selected)),
        }
    }
}

impl Answer {
    /// Whoever asked may be gone, then nobody misses the answer.
    pub(crate) fn send(self) {
        match self {
            Self::Traces(reply, answer) => drop(reply.send(answer)),
            Self::Trace(reply, answer) => drop(reply.send(answer)),
            Self::Events(reply, answer) => drop(reply.send(answer)),
            Self::Lines(reply, answer) => drop(reply.send(answer)),
            Self::Hosts(reply, answer) => drop(reply.send(answer)),
            Self::Boots(reply, answer) => drop(reply.send(answer)),
        }
    }
}
