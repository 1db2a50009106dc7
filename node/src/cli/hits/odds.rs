//! Probabilities in words that a person understands.

/// The words for how probable it is that a random selector matches, e.g.
/// `1 in 800 million by chance`: two digits are kept, more would feign a precision that the
/// estimate does not have.
pub(crate) fn by_chance(probability: f64) -> String {
    if !probability.is_finite() || probability < 0.0 {
        return "unknown".into();
    }
    if probability >= 1.0 {
        return "always by chance".into();
    }
    if probability == 0.0 {
        return "never by chance".into();
    }
    format!("1 in {} by chance", count(two_digits(1.0 / probability)))
}

/// The words for the probability that the holder holds the selector, e.g. `99.2 %`.
///
/// A filter's answer is never a certainty, hence neither 0 nor 100 per cent.
pub(crate) fn posterior(probability: f64) -> String {
    match probability {
        p if !(0.0..=1.0).contains(&p) => "unknown".into(),
        p if p > 0.9999 => "over 99.99 %".into(),
        p if p < 0.0001 => "under 0.01 %".into(),
        p if !(0.01..=0.99).contains(&p) => format!("{:.2} %", p * 100.0),
        p => format!("{:.1} %", p * 100.0),
    }
}

/// A number of at least 1, rounded to two digits.
fn two_digits(number: f64) -> f64 {
    let unit = 10_f64.powf(number.log10().floor() - 1.0);
    (number / unit).round() * unit
}

fn count(number: f64) -> String {
    const NAMES: [(f64, &str); 5] = [
        (1e18, "quintillion"),
        (1e15, "quadrillion"),
        (1e12, "trillion"),
        (1e9, "billion"),
        (1e6, "million"),
    ];
    if number >= 1e21 {
        return "more than a sextillion".into();
    }
    for (unit, name) in NAMES {
        if number >= unit {
            return format!("{} {name}", trimmed(number / unit));
        }
    }
    if number < 1000.0 {
        return trimmed(number);
    }
    let digits = format!("{number:.0}");
    let (thousands, rest) = digits.split_at(digits.len() - 3);
    format!("{thousands},{rest}")
}

/// With one decimal where there is one.
fn trimmed(number: f64) -> String {
    let text = format!("{number:.1}");
    text.strip_suffix(".0")
        .map_or_else(|| text.clone(), Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chances_are_told_as_one_in_so_many() {
        for (probability, words) in [
            (1.25e-9, "1 in 800 million by chance"),
            (6.7e-10, "1 in 1.5 billion by chance"),
            (1e-6, "1 in 1 million by chance"),
            (1.000_001e-6, "1 in 1 million by chance"),
            (8.1e-6, "1 in 120,000 by chance"),
            (0.001, "1 in 1,000 by chance"),
            (0.02, "1 in 50 by chance"),
            (0.3, "1 in 3.3 by chance"),
            (0.999, "1 in 1 by chance"),
            (3.3e-13, "1 in 3 trillion by chance"),
            (1e-30, "1 in more than a sextillion by chance"),
            (1.0, "always by chance"),
            (0.0, "never by chance"),
            (-1.0, "unknown"),
            (f64::NAN, "unknown"),
        ] {
            assert_eq!(by_chance(probability), words, "{probability}");
        }
    }

    #[test]
    fn a_posterior_is_never_told_as_certain() {
        for (probability, words) in [
            (1.0, "over 99.99 %"),
            (0.999_95, "over 99.99 %"),
            (0.9921, "99.21 %"),
            (0.5, "50.0 %"),
            (0.005, "0.50 %"),
            (0.0, "under 0.01 %"),
            (f64::NAN, "unknown"),
            (1.5, "unknown"),
        ] {
            assert_eq!(posterior(probability), words, "{probability}");
        }
    }
}
