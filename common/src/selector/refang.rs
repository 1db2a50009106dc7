//! Undoing the spellings that keep indicators from being clicked (selectors.md, Refang).

use std::borrow::Cow;

use super::strip_prefix_any_case;

/// Replacements after the scheme's, in their order; each is one pass over the whole text.
const REPLACEMENTS: [(&str, &str); 6] = [
    ("[.]", "."),
    ("(.)", "."),
    ("{.}", "."),
    ("[@]", "@"),
    ("[at]", "@"),
    ("[:]", ":"),
];

/// The text with `hxxp` at its start and bracketed punctuation restored.
pub(super) fn refang(text: &str) -> Cow<'_, str> {
    let mut text = match strip_prefix_any_case(text, "hxxp") {
        Some(rest) => Cow::Owned(format!("http{rest}")),
        None => Cow::Borrowed(text),
    };
    // By bytes: most texts of a list have none of them.
    if text.bytes().any(|b| matches!(b, b'[' | b'(' | b'{')) {
        for (from, to) in REPLACEMENTS {
            text = Cow::Owned(replace_any_case(&text, from, to));
        }
    }
    text
}

/// Replaces every occurrence of the ASCII text `from`, which begins with a bracket, in any ASCII case,
/// from left to right.
fn replace_any_case(text: &str, from: &str, to: &str) -> String {
    let bracket = &from[..1];
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(bracket) {
        out.push_str(&rest[..at]);
        if let Some(after) = strip_prefix_any_case(&rest[at..], from) {
            out.push_str(to);
            rest = after;
        } else {
            out.push_str(bracket);
            rest = &rest[at + 1..];
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restores_what_selectors_md_lists() {
        for (from, to) in [
            (
                "hXXps[:]//evil[.]example(.)com{.}org",
                "https://evil.example.com.org",
            ),
            ("a[@]b", "a@b"),
            ("a[At]b[AT]c", "a@b@c"),
            ("münchen[.]example", "münchen.example"),
            ("plain.example", "plain.example"),
        ] {
            assert_eq!(refang(from), to);
        }
    }

    #[test]
    fn restores_nothing_else() {
        for text in [
            " hxxp",
            "xhxxp://a",
            "[dot]",
            "[ . ]",
            "(@)",
            "(at)",
            "{at}",
            "[://]",
            "[.)",
            "hxx",
            "[",
        ] {
            assert_eq!(refang(text), text);
        }
    }

    #[test]
    fn makes_one_pass_in_the_listed_order() {
        assert_eq!(refang("[[.]]"), "[.]");
        assert_eq!(refang("([.])"), ".", "`[.]` comes before `(.)`");
        assert_eq!(refang("[(.)]"), "[.]", "`[.]` has had its turn");
        assert_eq!(refang("[[at]]"), "[@]");
        assert_eq!(refang("hxxphxxp"), "httphxxp");
    }
}
