//! The behaviour that all transports share, checked on each.

mod cases;
mod real;
mod simulated;
mod world;

/// Instantiates the cases for a world.
macro_rules! cases {
    ($world:ty: $($case:ident),* $(,)?) => {
        $(
            #[test]
            fn $case() {
                <$world as $crate::world::World>::repeat($crate::cases::$case::<$world>);
            }
        )*
    };
}

macro_rules! all_cases {
    ($name:ident, $world:ty) => {
        mod $name {
            cases! { $world:
                echoes_what_arrives,
                moves_much_both_ways_through_tiny_buffers,
                drained_is_told_once_a_slow_reader_caught_up,
                a_flood_starves_nobody,
                a_flood_through_few_buffers_starves_nobody,
                pause_stops_and_resume_goes_on_in_order,
                paused_connections_hold_no_buffers,
                pausing_and_resuming_at_any_moment_loses_nothing,
                a_flood_waits_in_the_kernel,
                a_paused_flood_is_bounded,
                closing_in_order_delivers_everything,
                closing_in_order_ends_though_the_peer_never_reads,
                aborting_resets_the_peer,
                aborting_ends_a_closing_that_hangs,
                what_arrived_before_the_end_comes_first,
                the_last_words_of_a_peer_are_answered,
                stale_ids_are_ignored,
                a_refused_connection_closes,
                a_connection_can_be_given_up_while_connecting,
                a_connection_can_be_paused_while_connecting,
                output_written_while_connecting_is_sent,
                exhausted_buffers_come_back,
                no_more_connections_than_allowed,
            }
        }
    };
}

all_cases!(uring, crate::real::UringWorld);
all_cases!(epoll, crate::real::EpollWorld);
all_cases!(sim, crate::simulated::SimWorld);
