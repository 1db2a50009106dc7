//! Stacks of filters (protocol §5.4), and what a hit in one is worth (protocol §7).

/// Most supplements on one base.
pub const MAX_SUPPLEMENTS: usize = 8;

/// `f_total = 1 − Π (1 − f)^g`: the probability that a ref of `group` tags, none of them held,
/// matches some layer, from the layers' own probabilities `f` (0 ≤ f < 1).
///
/// Exact to the last digits also where `f` is far below 1e-16, by the logarithm of 1 − f.
pub fn f_total(layers: impl IntoIterator<Item = f64>, group: u32) -> f64 {
    let log_of_no_match: f64 = layers.into_iter().map(|f| (-f).ln_1p()).sum();
    -(f64::from(group) * log_of_no_match).exp_m1()
}

/// The posterior of a hit: `π·r / (π·r + (1 − π)·f_total)` with r = 1 and `prior` π, both in
/// 0..=1. Where prior and `f_total` are both 0 there is nothing to believe in: 0.
pub fn posterior(prior: f64, f_total: f64) -> f64 {
    let hit = prior + (1.0 - prior) * f_total;
    if hit > 0.0 { prior / hit } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() <= b.abs() * 1e-12
    }

    #[test]
    fn one_layer_and_one_tag_keep_their_probability() {
        for f in [0.0, 1e-30, 1.26e-9, 1e-3, 0.5] {
            assert!(close(f_total([f], 1), f), "{f}");
        }
    }

    #[test]
    fn tiny_probabilities_add_up() {
        assert!(close(f_total([1e-20; 9], 40), 360e-20));
        assert!(close(f_total([0.5, 0.5], 2), 1.0 - 0.0625));
        assert!(f_total([], 40) == 0.0);
    }

    #[test]
    fn posteriors_stay_between_prior_and_certainty() {
        assert!(close(posterior(0.001, 0.0), 1.0));
        assert!(close(posterior(0.001, 1.0), 0.001));
        assert!(close(
            posterior(1e-6, 1e-9),
            1e-6 / (1e-6 + (1.0 - 1e-6) * 1e-9)
        ));
        assert!(posterior(0.0, 0.0) == 0.0 && close(posterior(1.0, 0.5), 1.0));
    }
}
