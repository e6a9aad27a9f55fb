//! The part of the query service that is about what happened lately: stacks of two sides, traces, events, lines, hosts.

use prost::Message as _;
use sandscope_model::{Profile, SampleKind};
use sandscope_proto::query::{
    FlameDiffRequest, FlameDiffResponse, HostsResponse, LinesRequest, LinesResponse, TraceRequest,
    TraceResponse,
};
use sandscope_proto::stacks::StackEncoder;
use tonic::Status;

use crate::live::{FoldSpan, Folded, Selected};
use crate::query::{MAX_FLAME, MAX_STACKS};
use crate::recordings::Fleet;
use crate::state::Handle;
use crate::state_recent::Question;

/// What was sampled, by its name.
pub(crate) fn kind_of(name: &str) -> Result<SampleKind, Status> {
    SampleKind::parse(name).ok_or_else(|| Status::invalid_argument("the kind is none of cpu, wall, alloc"))
}

fn trace_id(text: &str) -> Result<u128, Status> {
    let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id = u128::from_str_radix(text, 16).ok().filter(|id| digits && *id != 0);
    id.ok_or_else(|| Status::invalid_argument("a trace id is 32 hexadecimal digits"))
}

pub(crate) async fn trace(
    state: &Handle,
    request: &TraceRequest,
    selected: Selected,
) -> Result<TraceResponse, Status> {
    let id = trace_id(&request.trace_id)?;
    let (spans, truncated) = state.recent(|reply| Question::Trace(id, selected, reply)).await?;
    Ok(TraceResponse { spans, truncated })
}

pub(crate) async fn lines(
    state: &Handle,
    request: LinesRequest,
    selected: Selected,
) -> Result<LinesResponse, Status> {
    let named = Some(request.trace_id.as_str()).filter(|id| !id.is_empty());
    let trace = named.map(trace_id).transpose()?;
    Ok(state.recent(|reply| Question::Lines(request, trace, selected, reply)).await?)
}

pub(crate) async fn hosts(
    state: &Handle,
    fleet: &Fleet,
    selected: Selected,
) -> Result<HostsResponse, Status> {
    let (mut hosts, truncated) = state.recent(|reply| Question::Hosts(selected, reply)).await?;
    let connected = fleet.instances();
    for host in &mut hosts {
        host.connected = host.source.as_ref().is_some_and(|source| connected.contains(&source.instance));
    }
    Ok(HostsResponse { hosts, truncated })
}

pub(crate) async fn flame_diff(
    state: &Handle,
    request: &FlameDiffRequest,
    base: Selected,
    candidate: Selected,
) -> Result<FlameDiffResponse, Status> {
    let kind = kind_of(&request.kind)?;
    let now = FoldSpan { seconds: request.seconds, age: 0.0 };
    let before = FoldSpan { age: request.base_age_s, ..now };
    let base = state.fold(base, kind, before).await?;
    let candidate = state.fold(candidate, kind, now).await?;
    Ok(diff(&base.profile, &candidate, kind))
}

/// Both sides over the stacks of both, heaviest first, as many as an answer holds.
fn diff(base: &Profile, candidate: &Folded, kind: SampleKind) -> FlameDiffResponse {
    let mut both = candidate.profile.clone();
    let of_base = both.merge(base);
    let mut base_weights = vec![sandscope_model::profile::Weight::default(); both.stacks.len()];
    for (index, weight) in of_base.iter().zip(&base.weights) {
        if let Some(sum) = base_weights.get_mut(*index as usize) {
            *sum = *weight;
        }
    }
    let mut order: Vec<usize> = (0..both.stacks.len()).collect();
    order.sort_by_key(|&at| std::cmp::Reverse(both.weights[at].value));
    let mut most = MAX_STACKS.min(order.len());
    loop {
        let mut encoder = StackEncoder::default();
        let mut response =
            FlameDiffResponse { truncated: (order.len() - most) as u64, ..FlameDiffResponse::default() };
        let mut samples = encoder.profile(&Profile::new());
        kind.name().clone_into(&mut samples.kind);
        samples.hz = candidate.hz;
        let count = |samples: u64| u32::try_from(samples).unwrap_or(u32::MAX);
        for &at in &order[..most] {
            let (all, base) = (both.weights[at], base_weights[at]);
            let index = encoder.stack(&both, &both.stacks[at], &mut samples);
            samples.stack.push(index);
            samples.value.push(all.value.saturating_sub(base.value));
            samples.count.push(count(all.samples.saturating_sub(base.samples)));
            response.base_value.push(base.value);
            response.base_count.push(count(base.samples));
        }
        response.samples = Some(samples);
        if response.encoded_len() <= MAX_FLAME || most == 0 {
            return response;
        }
        most /= 2;
    }
}
