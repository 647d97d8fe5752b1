//! Attacks on what guests, hosts and their operators are known by, with real daemons and real guests.
//!
//! Each attack that is thought of has tests that show it, here or beside the code that it is made on ([`index`] holds the
//! table to that):
//!
//! | the attack | the tests that show it |
//! |---|---|
//! | a token of any kind with a byte changed, cut, extended | `every_changed_byte_every_cut_and_every_addition_is_refused` (control plane, `identity/token`), `every_changed_character_every_cut_and_every_addition_is_refused` (control plane, `http`) |
//! | a token for one of another kind, and under another key | `no_kind_passes_for_another_even_with_a_header_to_match`, `keys_open_from_staging_until_they_are_destroyed` there; `a_token_of_one_kind_is_none_of_another`, `no_token_opens_a_door_of_another_kind_under_any_name`, `tokens_of_a_key_that_was_destroyed_open_nothing` (control plane, `http`); `only_programs_of_the_machine_are_served_and_each_by_its_user` (`imds`) |
//! | a token of another account, and of another deployment | `a_token_of_another_account_opens_nothing`, `tokens_of_another_deployment_open_nothing` (control plane, `http`) |
//! | a session, a key or a user that has ended | `a_session_that_was_ended_is_dead_for_all_of_its_tokens_and_no_others`, `tokens_survive_a_promotion_and_fall_with_their_key` (control plane, `identity`), `disabling_and_a_new_password_end_everything_at_once` (control plane, `http`); `nothing_of_a_users_session_is_taken_once_it_was_ended` (`api`) |
//! | a session that was ended, within a second, and within five where the host is cut off | [`relays`]; `a_session_that_was_ended_is_dead_at_the_host_and_in_the_guest_within_a_second`, `a_host_that_is_cut_off_gives_nothing_of_a_session_out_after_five_seconds` (`access`), `a_session_is_dead_within_five_seconds_where_packets_vanish` (`processes`); `a_host_hears_within_a_second_that_a_guests_session_ended_and_gets_no_other_for_that_life` (`api`); `what_a_host_reads_in_a_guests_name_falls_with_the_guests_session`, `a_guest_whose_session_was_ended_sees_its_own_entries_and_nobody_elses_until_its_next_life` (control plane, `http`) |
//! | a guest with another's token, or in another's name | [`relays`]; `row_14_a_relay_is_made_in_the_guests_own_name_only` (`hostile_link`); `one_instance_is_not_another` (control plane, `http`) |
//! | a request sent again, moved, changed on the way | [`relays`]; `what_is_changed_on_the_way_is_refused`, `every_character_of_a_signature_counts`, `a_request_is_taken_once` (control plane, `http`) |
//! | a request passed on by a host that doesn't have the instance | [`relays`]; `only_the_host_that_has_the_instance_passes_its_requests_on`, `a_host_can_not_forge_for_its_guest` (control plane, `http`) |
//! | what an earlier life of a VM signed | [`relays`]; `a_later_life_ends_the_session_of_an_earlier_one` (control plane, `http`) |
//! | a restored snapshot, and a copy of a machine | [`clones`]; `a_copy_of_a_guest_loses_its_session_when_the_host_asks_for_another` (control plane, `http`) |
//! | a copied disk | `a_copied_disk_makes_no_machine_another` (`privileged`) |
//! | a CID or a path that is used again | `a_host_by_the_book_knows_its_guests_by_their_cids` (`nested`), `row_4_the_next_instance_on_a_socket_sees_nothing_of_the_one_before`, `row_4_between_two_lives_nobody_is_served` (`hostile_link`) |
//! | a user of a guest at the link | `privileged`, `nested` |
//! | a user of a guest at the agent | [`inside`]; `row_12_what_a_guest_may_not_have_of_its_own_is_not_in_its_mirror` (`access`) |
//! | the metadata service: passed-on requests, other names, other machines, long and foreign tokens, its answers beyond the machine, secret entries | `only_programs_of_the_machine_are_served_and_each_by_its_user`, `a_secret_entry_is_shown_to_those_alone_whom_a_rule_names` (`imds`); `requests_that_were_passed_on_are_refused` (agent) |
//! | a host's certificate on two machines, past its end, of another authority, at another host's routes | [`certificates`] |
//! | a host that was revoked, and enrolment tokens that are used up or over | [`second_host`] |
//! | secrets in logs, records, stores, state, command lines and core files | `nothing_that_the_daemons_leave_tells_a_secret`, `no_token_and_no_key_is_where_it_does_not_belong`, `no_daemon_writes_a_core_file` (`processes`); `the_kernel_says_that_none_is_written` (shared, `cores`); `a_host_by_the_book_knows_its_guests_by_their_cids` (`nested`); [`inside`] |

mod certificates;
mod clones;
mod index;
mod inside;
mod relays;
mod second_host;

use anyhow::{Context, Result, ensure};
use moorline_client::ClientError;
use moorline_lab::deployment::{ControlPlane, PATIENCE};
use moorline_lab::process::finish;
use moorline_lab::wait;
use moorline_shared::api::hosts::{HostPage, HostStanding};

/// Fails unless a request was refused as a problem of this kind, and answers with what was told.
fn refused<T>(what: &str, kind: &str, outcome: Result<T, ClientError>) -> Result<String> {
    let error = outcome
        .err()
        .with_context(|| format!("{what} was to be refused"))?;
    let problem = error
        .problem()
        .with_context(|| format!("{what} failed: {error:?}"))?;
    ensure!(
        problem.kind == kind,
        "{what} was refused as {}: {}",
        problem.kind,
        problem.detail
    );
    Ok(problem.detail.clone())
}

/// How a host stands, as `moorline host list` shows it to programs.
async fn standing(control: &ControlPlane, host: &str) -> Result<Option<HostStanding>> {
    let listed = finish(control.cli().args(["host", "list", "--output", "json"])).await?;
    let page: HostPage = serde_json::from_str(&listed).context("the list of hosts")?;
    let found = page.hosts.into_iter().find(|found| found.id.as_str() == host);
    Ok(found.and_then(|host| host.standing))
}

async fn stands(control: &ControlPlane, host: &str, as_what: HostStanding) -> Result<()> {
    let look = async || {
        let found = standing(control, host).await.ok()?;
        (found == Some(as_what)).then_some(())
    };
    wait::until(&format!("{host} to be {as_what:?}"), PATIENCE, look).await
}
