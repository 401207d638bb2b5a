//! What every log must do, whichever it is: each property runs against the embedded log, and against Kafka when
//! `HOOKWIRE_TEST_KAFKA` names its bootstrap servers.
//!
//! * `backend`: a log to test · `kafka`: the same for Kafka
//! * `support`: a member of a group that keeps what it owns, and waiting
//! * `child`: what this program does when it starts itself, to be killed
//! * the rest: the properties

#![allow(clippy::unwrap_used, clippy::print_stderr, missing_docs, reason = "tests")]

mod appending;
mod backend;
mod child;
mod crashes;
mod groups;
mod kafka;
mod model;
mod reading;
mod retention;
mod support;

/// A test of each property for each backend.
macro_rules! properties {
    ($($module:ident: $($name:ident),+ $(,)?;)+) => {
        mod embedded {
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    crate::$module::$name(&crate::backend::Embedded::fresh()).await;
                }
            )+)+
        }

        mod on_kafka {
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    match crate::kafka::fresh() {
                        Some(backend) => crate::$module::$name(&backend).await,
                        None => eprintln!("not run: HOOKWIRE_TEST_KAFKA is not set"),
                    }
                }
            )+)+
        }
    };
}

properties! {
    appending:
        records_of_a_partition_are_in_the_order_of_appending,
        order_holds_for_each_of_many_writers,
        a_payload_of_1_mib_goes_through_every_topic,
        a_record_that_is_too_large_is_refused_and_stops_nothing,
        an_undecodable_record_ends_in_quarantine_and_stops_nothing,
        a_log_that_can_be_written_says_so,
        a_closed_log_takes_nothing;
    reading:
        a_restart_finds_all_data,
        an_offset_is_found_for_a_time,
        a_read_keeps_to_its_limits,
        what_was_just_appended_is_read_though_the_end_was_there_before,
        reading_beyond_the_end_is_out_of_range;
    groups:
        records_finish_in_any_order_and_the_next_owner_redoes_only_the_unfinished,
        each_group_gets_every_record,
        records_arrive_while_they_are_appended,
        two_members_share_the_partitions_and_one_that_leaves_gives_them_up,
        a_partition_moves_only_when_it_is_let_go,
        a_partition_that_is_not_let_go_moves_after_the_drain_timeout,
        a_member_may_begin_until_its_partition_is_revoked,
        more_unfinished_than_a_commit_can_name_are_redone_and_none_is_skipped;
    crashes:
        what_was_acknowledged_survives_kill_9,
        a_killed_consumer_loses_nothing_and_redoes_little;
    retention:
        old_records_are_taken_and_a_group_that_was_late_goes_on;
    model:
        whatever_happens_nothing_unfinished_is_skipped;
}
