//! Filters of system calls (seccomp(2)), made from the list in [`calls`](super::calls).

use std::{collections::BTreeMap, process, str::FromStr};

use libc::{AF_INET, AF_INET6, EACCES};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule,
};
use syscalls::Sysno;

use super::{
    Reach,
    calls::{
        CALLS, CHOSEN_NAME, Condition, OPTIONS, PRIVATE_FAMILY, REFUSED, Refused, SOCKET_TYPE,
        SOCKET_TYPE_BITS, TCP_OPTIONS, Test, When,
    },
};

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// The filter that allows the calls of the list and stops others. It allows those of [`refusing`] as
/// well, whose filters are stricter.
///
/// # Errors
///
/// The list can't be written as a filter, or the crate does not know this architecture.
pub(super) fn allowing(reach: &Reach) -> Result<BpfProgram, BackendError> {
    let mut rules = allowed(reach)?;
    add(&mut rules, REFUSED.iter());
    compile(rules, SeccompAction::Trap, SeccompAction::Allow)
}

/// The filter that allows the calls of the list and has others logged, also those that
/// [`refusing`] makes fail with a lack of permission.
///
/// # Errors
///
/// As for [`allowing`].
pub(super) fn logging(reach: &Reach) -> Result<BpfProgram, BackendError> {
    let mut rules = allowed(reach)?;
    add(&mut rules, REFUSED.iter().filter(|it| it.errno != EACCES));
    compile(rules, SeccompAction::Log, SeccompAction::Allow)
}

fn add<'r>(rules: &mut Rules, refused: impl Iterator<Item = &'r Refused>) {
    let numbers = refused.filter_map(|refused| number(refused.name));
    rules.extend(numbers.map(|number| (number, Vec::new())));
}

fn allowed(reach: &Reach) -> Result<Rules, BackendError> {
    let mut rules = Rules::new();
    for call in CALLS {
        let Some(number) = number(call.name) else {
            continue;
        };
        let alternatives = match call.when {
            When::Always | When::Removes => Vec::new(),
            When::If(alternatives) => {
                let rule = |conditions: &&[Condition]| rule(conditions);
                alternatives.iter().map(rule).collect::<Result<_, _>>()?
            }
            When::OfThisProcess => vec![rule(&[(0, Test::Is(process::id().cast_signed()))])?],
            When::MakesSocket => families(reach).map(socket_rule).collect::<Result<_, _>>()?,
            When::Connects => address_lengths(reach)
                .map(|length| rule(&[(2, Test::Is(length))]))
                .collect::<Result<_, _>>()?,
            When::SetsOption => options(reach)
                .map(|(level, option)| rule(&[(1, Test::Is(level)), (2, Test::Is(option))]))
                .collect::<Result<_, _>>()?,
        };
        rules.insert(number, alternatives);
    }
    Ok(rules)
}

/// Filters that make calls fail which libraries and the end of the process do without, one per
/// error. `removes`: files of sockets may be removed.
///
/// # Errors
///
/// As for [`allowing`].
pub(super) fn refusing(removes: bool) -> Result<Vec<BpfProgram>, BackendError> {
    let removing = CALLS.iter().filter(|call| call.when == When::Removes);
    let removing = removing.map(|call| (call.name, EACCES));
    let refused = REFUSED.iter().map(|refused| (refused.name, refused.errno));
    let mut errors = BTreeMap::<i32, Rules>::new();
    for (name, errno) in refused.chain(removing.filter(|_| !removes)) {
        let rules = errors.entry(errno).or_default();
        rules.extend(number(name).map(|number| (number, Vec::new())));
    }
    let filters = errors.into_iter().map(|(errno, rules)| {
        let fails = SeccompAction::Errno(errno.unsigned_abs());
        compile(rules, SeccompAction::Allow, fails)
    });
    filters.collect()
}

/// The number of a call; `None`: this architecture lacks it.
fn number(name: &str) -> Option<i64> {
    Sysno::from_str(name).ok().map(|call| call.id().into())
}

fn compile(
    rules: Rules,
    otherwise: SeccompAction,
    action: SeccompAction,
) -> Result<BpfProgram, BackendError> {
    let architecture = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, otherwise, action, architecture)?.try_into()
}

fn rule(conditions: &[Condition]) -> Result<SeccompRule, BackendError> {
    let conditions = conditions.iter().map(|(argument, test)| {
        let bits = |bits: i32| u64::from(bits.cast_unsigned());
        let (operator, value) = match *test {
            Test::Is(value) => (SeccompCmpOp::Eq, bits(value)),
            Test::Has(flags) => (SeccompCmpOp::MaskedEq(bits(flags)), bits(flags)),
            Test::Lacks(flags) => (SeccompCmpOp::MaskedEq(bits(flags)), 0),
        };
        SeccompCondition::new(*argument, SeccompCmpArgLen::Dword, operator, value)
    });
    SeccompRule::new(conditions.collect::<Result<_, _>>()?)
}

/// A stream socket of this family, with or without flags.
fn socket_rule(family: i32) -> Result<SeccompRule, BackendError> {
    let has_type = SeccompCmpOp::MaskedEq(SOCKET_TYPE_BITS.unsigned_abs().into());
    let argument = SeccompCmpArgLen::Dword;
    SeccompRule::new(vec![
        SeccompCondition::new(
            0,
            argument.clone(),
            SeccompCmpOp::Eq,
            family.unsigned_abs().into(),
        )?,
        SeccompCondition::new(1, argument, has_type, SOCKET_TYPE.unsigned_abs().into())?,
    ])
}

fn families(reach: &Reach) -> impl Iterator<Item = i32> {
    let is_v4 = |v4: bool| reach.tcp.iter().any(|peer| peer.is_ipv4() == v4);
    let of_wires = [(AF_INET, is_v4(true)), (AF_INET6, is_v4(false))];
    let of_wires = of_wires.into_iter().filter(|(_, used)| *used);
    std::iter::once(PRIVATE_FAMILY).chain(of_wires.map(|(family, _)| family))
}

/// Lengths of the addresses that are connected to.
fn address_lengths(reach: &Reach) -> impl Iterator<Item = i32> {
    let of_tcp = reach.tcp.iter().map(|peer| {
        if peer.is_ipv4() {
            size_of::<libc::sockaddr_in>()
        } else {
            size_of::<libc::sockaddr_in6>()
        }
    });
    // A family, the path and a zero.
    let of_unix = reach
        .unix
        .iter()
        .map(|path| size_of::<libc::sa_family_t>() + path.as_os_str().len() + 1);
    let of_wires = of_tcp.chain(of_unix);
    let of_wires = of_wires.filter_map(|length| i32::try_from(length).ok());
    std::iter::once(CHOSEN_NAME).chain(of_wires)
}

fn options(reach: &Reach) -> impl Iterator<Item = (i32, i32)> {
    let of_tcp = if reach.has_tcp { TCP_OPTIONS } else { &[] };
    OPTIONS.iter().chain(of_tcp).copied()
}
