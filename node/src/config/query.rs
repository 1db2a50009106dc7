//! The query of a source, as far as it must be understood to stand in another query.

/// What is wrong with a query; repeats nothing of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum InvalidQuery {
    /// There is nothing in it.
    #[error("is empty")]
    Empty,
    /// There is something after a semicolon.
    #[error("is more than one statement: write one SELECT")]
    SeveralStatements,
    /// It ends within a comment, a text, a name or parentheses.
    #[error("ends within a comment, a quoted text or name, or parentheses")]
    Unfinished,
    /// A parenthesis is closed that was not opened.
    #[error("closes a parenthesis that it did not open")]
    Unopened,
}

/// One statement without the semicolon at its end: what stands between parentheses in another
/// query. Comments stay; one that ends with its line needs a line break after it.
///
/// # Errors
/// If it is not one whole statement.
pub(super) fn one_statement(query: &str) -> Result<String, InvalidQuery> {
    let mut rest = query;
    let (mut depth, mut end, mut content) = (0_u32, None, false);
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '-' if rest.starts_with("--") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => comment(rest)?,
            '\'' | '"' | '`' => quoted(rest, first)?,
            '$' => dollar_quoted(rest)?,
            // A name begins here, and takes its digits, dollars and a prefix such as E with it.
            _ if is_of_a_name(first) => word(rest)?,
            _ => first.len_utf8(),
        };
        let is_comment = rest.starts_with("--") || rest.starts_with("/*");
        match first {
            ';' => {
                end = end.or(Some(query.len() - rest.len()));
            }
            _ if is_comment || first.is_whitespace() => {}
            _ if end.is_some() => return Err(InvalidQuery::SeveralStatements),
            '(' => depth += 1,
            ')' => depth = depth.checked_sub(1).ok_or(InvalidQuery::Unopened)?,
            _ => content = true,
        }
        rest = &rest[length..];
    }
    if depth > 0 {
        return Err(InvalidQuery::Unfinished);
    }
    if !content {
        return Err(InvalidQuery::Empty);
    }
    Ok(query[..end.unwrap_or(query.len())].trim().to_owned())
}

fn is_of_a_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The length of a name or number, or of a text with a prefix; PostgreSQL's `E'…'` alone has
/// escapes by backslash.
fn word(text: &str) -> Result<usize, InvalidQuery> {
    let length = text
        .find(|c| !is_of_a_name(c) && c != '$')
        .unwrap_or(text.len());
    if length == 1 && text.starts_with(['e', 'E']) && text[1..].starts_with('\'') {
        return escaped(&text[1..]).map(|quoted| 1 + quoted);
    }
    Ok(length)
}

/// The length of a comment, which may hold others (as in PostgreSQL).
fn comment(text: &str) -> Result<usize, InvalidQuery> {
    let (mut depth, mut at) = (0_u32, 0);
    loop {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return Ok(at);
            }
        } else {
            at += rest
                .chars()
                .next()
                .ok_or(InvalidQuery::Unfinished)?
                .len_utf8();
        }
    }
}

/// The length of a text or name in quotes; a doubled quote is two of them, one after the other.
fn quoted(text: &str, quote: char) -> Result<usize, InvalidQuery> {
    let close = text[1..].find(quote).ok_or(InvalidQuery::Unfinished)?;
    Ok(close + 2)
}

fn escaped(text: &str) -> Result<usize, InvalidQuery> {
    let mut skip = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if skip => skip = false,
            '\\' => skip = true,
            '\'' => return Ok(at + 1),
            _ => {}
        }
    }
    Err(InvalidQuery::Unfinished)
}

/// The length of a text in `$tag$`, or 1: a dollar that stands for itself.
fn dollar_quoted(text: &str) -> Result<usize, InvalidQuery> {
    let tag = text[1..].find(|c| !is_of_a_name(c)).map(|at| at + 1);
    let Some(tag) = tag.filter(|&at| text[at..].starts_with('$')) else {
        return Ok(1);
    };
    let tag = &text[..=tag];
    let close = text[tag.len()..].find(tag);
    close
        .map(|close| close + 2 * tag.len())
        .ok_or(InvalidQuery::Unfinished)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_statement_loses_its_semicolon_and_nothing_else() {
        for (query, bare) in [
            (" SELECT 1 ", "SELECT 1"),
            ("SELECT 1;", "SELECT 1"),
            ("SELECT 1 ; -- all; of it\n /* ; */ ;", "SELECT 1"),
            ("SELECT 1 -- it's", "SELECT 1 -- it's"),
            ("SELECT ';' /* ) */", "SELECT ';' /* ) */"),
            ("SELECT 'a'';' AS \"b;\"\"\"", "SELECT 'a'';' AS \"b;\"\"\""),
            ("SELECT E'\\';' , e'\\\\'", "SELECT E'\\';' , e'\\\\'"),
            ("SELECT $$;$$, $a$;$$)$a$", "SELECT $$;$$, $a$;$$)$a$"),
            ("SELECT a$1 /* /* ; */ ' */", "SELECT a$1 /* /* ; */ ' */"),
            ("SELECT (1), name'x)'", "SELECT (1), name'x)'"),
            ("SELECT 'é;', ü", "SELECT 'é;', ü"),
        ] {
            assert_eq!(one_statement(query).as_deref(), Ok(bare), "{query}");
        }
    }

    #[test]
    fn what_could_leave_its_parentheses_is_refused() {
        for (query, expected) in [
            ("", InvalidQuery::Empty),
            (" ; -- nothing", InvalidQuery::Empty),
            ("SELECT 1; SELECT 2", InvalidQuery::SeveralStatements),
            ("SELECT 1; (", InvalidQuery::SeveralStatements),
            ("SELECT 1) AS x, (SELECT 2", InvalidQuery::Unopened),
            ("SELECT (1", InvalidQuery::Unfinished),
            ("SELECT 1 /* /* */", InvalidQuery::Unfinished),
            ("SELECT 'a''", InvalidQuery::Unfinished),
            ("SELECT \"a", InvalidQuery::Unfinished),
            ("SELECT E'\\'", InvalidQuery::Unfinished),
            ("SELECT $a$ $$", InvalidQuery::Unfinished),
        ] {
            assert_eq!(one_statement(query), Err(expected), "{query}");
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_written_does_not_break_it(query in "[-/*'\"$eE;()a \\n\\\\é`]{0,24}") {
            let _ = one_statement(&query);
        }
    }
}
