//! A tokenizer for Rust that knows just enough: comments and literals vanish, names, `::` and single
//! punctuation remain.

/// A token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token {
    /// A name or keyword, without `r#`; a number leaves the empty name.
    Ident(String),
    /// `::`
    PathSep,
    /// Any other character.
    Punct(char),
}

impl Token {
    /// Whether it is one of these names.
    pub fn is_ident(&self, names: &[&str]) -> bool {
        matches!(self, Self::Ident(name) if names.contains(&name.as_str()))
    }
}

/// The tokens of a source text.
pub fn tokens(text: &str) -> Vec<Token> {
    numbered(text).into_iter().map(|(_, token)| token).collect()
}

/// The tokens of a source text, each with its line, counted from 1.
pub fn numbered(text: &str) -> Vec<(usize, Token)> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < chars.len() {
        let next = skip(&chars, at);
        let end = if next > at {
            next
        } else if is_name(chars[at]) {
            let end = at + chars[at..].iter().take_while(|c| is_name(**c)).count();
            let name: String = chars[at..end].iter().collect();
            let is_number = name.starts_with(|first: char| first.is_ascii_digit());
            tokens.push((line, Token::Ident(if is_number { String::new() } else { name })));
            end
        } else if chars[at..].starts_with(&[':', ':']) {
            tokens.push((line, Token::PathSep));
            at + 2
        } else {
            if !chars[at].is_whitespace() {
                tokens.push((line, Token::Punct(chars[at])));
            }
            at + 1
        };
        line += chars[at..end].iter().filter(|c| **c == '\n').count();
        at = end;
    }
    tokens
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Behind the comment, literal or lifetime that begins at `at`; `at` itself where none does.
fn skip(chars: &[char], at: usize) -> usize {
    let rest = &chars[at..];
    let find = |from: usize, what: &[char]| {
        let found = chars[from..].windows(what.len()).position(|window| window == what);
        found.map_or(chars.len(), |found| from + found + what.len())
    };
    match rest {
        ['/', '/', ..] => at + rest.iter().take_while(|c| **c != '\n').count(),
        ['/', '*', ..] => {
            let (mut depth, mut at) = (1, at + 2);
            while depth > 0 && at < chars.len() {
                match &chars[at..] {
                    ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
                    ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
                    _ => at += 1,
                }
            }
            at
        }
        ['"', ..] => string_end(chars, at + 1, '"'),
        ['b' | 'c', '"', ..] => string_end(chars, at + 2, '"'),
        ['b', '\'', ..] => string_end(chars, at + 2, '\''),
        ['r', '#' | '"', ..] | ['b' | 'c', 'r', '#' | '"', ..] => {
            let hashes_at = at + if rest[0] == 'r' { 1 } else { 2 };
            let hashes = chars[hashes_at..].iter().take_while(|c| **c == '#').count();
            if chars.get(hashes_at + hashes) != Some(&'"') {
                // A raw name: only its `r#` goes.
                return hashes_at + hashes;
            }
            let mut end = vec!['"'];
            end.extend(std::iter::repeat_n('#', hashes));
            find(hashes_at + hashes + 1, &end)
        }
        // A lifetime is a name without an end; a character has one.
        ['\'', '\\', ..] => string_end(chars, at + 1, '\''),
        ['\'', _, '\'', ..] => at + 3,
        ['\'', ..] => at + 1 + rest[1..].iter().take_while(|c| is_name(**c)).count(),
        _ => at,
    }
}

/// Behind the closing `quote`, with backslashes minded.
fn string_end(chars: &[char], mut at: usize, quote: char) -> usize {
    while at < chars.len() && chars[at] != quote {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(chars.len())
}

/// The place of the bracket that closes the one at `open`.
pub fn close_of(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token {
            Token::Punct('(' | '[' | '{') => depth += 1,
            Token::Punct(')' | ']' | '}') => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    tokens.len().saturating_sub(1)
}

/// Where items for tests stand, from the attribute to behind the item: those behind `#[cfg(test)]`,
/// `#[cfg(doctest)]` and `#[cfg(all(test, ...))]`.
pub fn test_spans(tokens: &[Token]) -> Vec<(usize, usize)> {
    let mut spans = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if !is_test_attribute(&tokens[at..]) {
            at += 1;
            continue;
        }
        let from = at;
        while tokens.get(at) == Some(&Token::Punct('#')) {
            at = close_of(tokens, at + 1) + 1;
        }
        // A `use` ends at its semicolon, anything else there or at the end of its first braces.
        let is_use = tokens[at..].iter().take(8).take_while(|token| **token != Token::Punct('{'));
        let is_use = is_use.clone().any(|token| token.is_ident(&["use"]));
        while at < tokens.len() {
            match tokens[at] {
                Token::Punct(';') => break,
                Token::Punct('{') => {
                    at = close_of(tokens, at);
                    if !is_use {
                        break;
                    }
                }
                Token::Punct('(' | '[') => at = close_of(tokens, at),
                _ => {}
            }
            at += 1;
        }
        at += 1;
        spans.push((from, at.min(tokens.len())));
    }
    spans
}

fn is_test_attribute(tokens: &[Token]) -> bool {
    let [Token::Punct('#'), Token::Punct('['), cfg, Token::Punct('('), first, rest @ ..] = tokens else { return false };
    let under_all = first.is_ident(&["all"])
        && matches!(rest, [Token::Punct('('), second, ..] if second.is_ident(&["test", "doctest"]));
    cfg.is_ident(&["cfg"]) && (first.is_ident(&["test", "doctest"]) || under_all)
}
