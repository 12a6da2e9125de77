//! The contract of a provider of machines, as cases that every provider and every fake must pass.
//!
//! A case takes a [`Laboratory`]: a provider over a cloud whose scene can be set. [`suite!`] makes a test of each case:
//!
//! ```ignore
//! gpujob_provider_conformance::suite!(#[tokio::test] crate::laboratory::open());
//! ```
//!
//! What one provider promises beyond the contract (the words of its errors, say) it tests by itself, with [`Buyer`].

pub mod buyer;
pub mod ending;
pub mod laboratory;
pub mod launch;
pub mod leaving;
pub mod listing;
pub mod notices;
pub mod offers;
pub mod prefetch;
pub mod refusals;

pub use buyer::Buyer;
pub use laboratory::{Laboratory, Operation, Trouble};

/// A test of each case, in a module for each part of the contract. `$laboratory` is an expression whose await gives a
/// [`Laboratory`] with an empty, healthy cloud, which no other test uses until it is dropped.
#[macro_export]
macro_rules! suite {
    (#[$test:meta] $laboratory:expr) => {
        $crate::suite!(@ #[$test] $laboratory;
            offers { preparing_repeats, releasing_repeats, they_come_cheapest_first },
            launch {
                one_intent_is_one_instance, a_dead_original_is_seen_to_be_dead, another_request_is_a_mismatch,
                another_ordinal_is_another_intent, an_answer_lost_after_the_effect_is_found_by_the_same_call,
                an_answer_lost_before_the_effect_leaves_nothing, a_template_that_is_gone_can_be_made_again,
            },
            refusals {
                a_full_offer_is_told_and_the_next_is_bought, no_capacity_is_said_of_each_offer, capacity_comes_back_with_the_end,
                a_quota_is_of_one_market, a_price_above_the_limit_is_not_paid, a_full_subnet_is_of_one_zone,
                a_refused_call_does_nothing,
            },
            listing {
                it_says_whose_an_instance_is, other_clusters_are_not_seen, what_does_not_show_yet_is_still_bought,
                what_breaks_off_is_incomplete, what_cannot_be_read_is_no_list,
            },
            ending { it_repeats, the_unknown_is_gone },
            notices {
                an_interruption_is_polled, one_that_its_owner_ends_is_not_taken, a_queue_tells_until_it_is_told,
                a_recommendation_is_no_interruption, notices_of_others_are_told_too,
            },
            prefetch { a_variant_is_made_once_and_launches, what_is_no_image_is_not_prefetched },
            leaving {
                disks_and_templates_of_this_cluster_are_shown, removing_repeats, a_disk_in_use_is_no_leftover,
                a_console_is_read_from_its_end,
            },
        );
    };
    (@ #[$test:meta] $laboratory:expr; $($part:ident { $($case:ident),* $(,)? }),* $(,)?) => {
        $(mod $part {
            $(#[$test]
            async fn $case() {
                let laboratory = $laboratory.await;
                $crate::$part::$case(&laboratory).await;
            })*
        })*
    };
}
