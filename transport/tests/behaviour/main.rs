//! The behaviour that all transports share, checked on each.

mod cases;
mod disk;
mod files;
mod moving;
mod real;
mod simulated;
mod world;

/// Instantiates the cases for a world.
macro_rules! cases {
    ($world:ty, $from:ident: $($case:ident),* $(,)?) => {
        $(
            #[test]
            fn $case() {
                <$world as $crate::world::World>::repeat($crate::$from::$case::<$world>);
            }
        )*
    };
}

macro_rules! all_cases {
    ($name:ident, $world:ty) => {
        mod $name {
            cases! { $world, cases:
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
            cases! { $world, moving:
                moving_at_any_moment_loses_nothing,
                what_a_slow_peer_has_not_read_moves_along,
                the_end_of_the_peer_is_seen_where_it_has_moved_to,
                a_connection_that_leaves_may_be_closed,
                who_cannot_leave_stays,
                a_full_transport_adopts_nobody,
            }
            cases! { $world, files:
                a_file_keeps_what_is_written,
                what_is_not_there_is_told,
                closing_waits_for_what_is_under_way,
                many_operations_end_once_each,
                names_change,
                allocated_space_is_zeros,
                past_the_page_cache_or_told_so,
                an_end_ends_a_wait,
                a_transport_may_go_with_operations_under_way,
            }
        }
    };
}

all_cases!(uring, crate::real::UringWorld);
all_cases!(epoll, crate::real::EpollWorld);
all_cases!(sim, crate::simulated::SimWorld);
