use proptest::prelude::*;

use super::*;

fn problem(text: &str) -> (u64, u32, LineProblem) {
    let error = check(text.as_bytes()).expect_err(text);
    (error.line, error.column, error.why)
}

fn only(text: &str) -> Line<'_> {
    let found: Vec<_> = lines(text.as_bytes()).collect::<Result<_, _>>().expect(text);
    assert_eq!(found.len(), 1, "{text}");
    found[0]
}

fn value(token: &str) -> FieldValue<'static> {
    let text = format!("m f={token}");
    match only(&text).fields().next().expect("a field").1 {
        FieldValue::Text(text) => FieldValue::Text(text.into_owned().into()),
        FieldValue::Float(x) => FieldValue::Float(x),
        FieldValue::Integer(x) => FieldValue::Integer(x),
        FieldValue::Unsigned(x) => FieldValue::Unsigned(x),
        FieldValue::Boolean(x) => FieldValue::Boolean(x),
    }
}

#[test]
fn a_line_gives_back_every_part_without_its_escapes() {
    let line =
        only("my\\ pla\\,nt,si\\=te=north\\ west,path=C:\\dir te\\ mp=1.5,note=\"a \\\"b\\\" \\\\ c,d e=f\\n\" -17");
    assert_eq!(line.measurement(), "my pla,nt");
    let tags: Vec<_> = line.tags().collect();
    assert_eq!(tags, [("si=te".into(), "north west".into()), ("path".into(), "C:\\dir".into())]);
    let fields: Vec<_> = line.fields().collect();
    assert_eq!(fields[0], ("te mp".into(), FieldValue::Float(1.5)));
    assert_eq!(fields[1], ("note".into(), FieldValue::Text("a \"b\" \\ c,d e=f\\n".into())));
    assert_eq!((fields.len(), line.time()), (2, Some(-17)));
    assert_eq!(only("a\\=b\\\\=c f=1").measurement(), "a\\=b\\=c", "no escape in a measurement");
}

#[test]
fn each_type_of_value_is_read_as_what_it_is() {
    use FieldValue::*;
    for (token, expected) in [
        ("0", Float(0.0)),
        ("-1.5e3", Float(-1500.0)),
        ("+.5", Float(0.5)),
        ("5.", Float(5.0)),
        ("1E-2", Float(0.01)),
        ("-9223372036854775808i", Integer(i64::MIN)),
        ("+7i", Integer(7)),
        ("000000000000000000000000012i", Integer(12)),
        ("18446744073709551615u", Unsigned(u64::MAX)),
        ("t", Boolean(true)),
        ("T", Boolean(true)),
        ("true", Boolean(true)),
        ("True", Boolean(true)),
        ("TRUE", Boolean(true)),
        ("f", Boolean(false)),
        ("F", Boolean(false)),
        ("false", Boolean(false)),
        ("False", Boolean(false)),
        ("FALSE", Boolean(false)),
        ("\"\"", Text("".into())),
        ("\"two\nlines\"", Text("two\nlines".into())),
        ("\"gr\u{fc}n\"", Text("gr\u{fc}n".into())),
    ] {
        assert_eq!(value(token), expected, "{token}");
    }
}

#[test]
fn what_is_wrong_is_named_with_its_line_and_column() {
    use LineProblem::*;
    let q = |text: &str| -> Box<str> { text.into() };
    for (text, column, why) in [
        (",t=1 f=1", 1, NoMeasurement),
        ("m", 2, NoFields),
        ("m ", 3, NoFields),
        ("m,t=1", 6, NoFields),
        ("m,t=1\\", 7, NoFields),
        ("m, f=1", 3, NoKey),
        ("m,=1 f=1", 3, NoKey),
        ("m,t f=1", 4, NoTagValue),
        ("m,t= f=1", 5, NoTagValue),
        ("m,t=a=b f=1", 6, StrayEquals),
        ("m,t=1,t=2 f=1", 7, Twice(q("t"))),
        ("m =1", 3, NoKey),
        ("m f", 4, NoFieldValue),
        ("m f=", 5, NoFieldValue),
        ("m f=,g=1", 5, NoFieldValue),
        ("m f=1,", 7, NoKey),
        ("m f=1,f=2", 7, Twice(q("f"))),
        ("m a\\b=1,a\\\\b=2", 9, Twice(q("a\\\\b"))),
        ("m f=abc", 5, Value(q("abc"))),
        ("m f=.", 5, Value(q("."))),
        ("m f=1e", 5, Value(q("1e"))),
        ("m f=1e+", 5, Value(q("1e+"))),
        ("m f=--1", 5, Value(q("--1"))),
        ("m f=1.2.3", 5, Value(q("1.2.3"))),
        ("m f=i", 5, Value(q("i"))),
        ("m f=1.5i", 5, Value(q("1.5i"))),
        ("m f=tRUE", 5, Value(q("tRUE"))),
        ("m f=NaN", 5, NotFinite(q("NaN"))),
        ("m f=-Inf", 5, NotFinite(q("-Inf"))),
        ("m f=1e999", 5, NotFinite(q("1e999"))),
        ("m f=9223372036854775808i", 5, Range(q("9223372036854775808i"))),
        ("m f=-1u", 5, Range(q("-1u"))),
        ("m f=18446744073709551616u", 5, Range(q("18446744073709551616u"))),
        ("m f=\"a", 5, OpenString),
        ("m f=\"a\\\"", 5, OpenString),
        ("m f=\"a\"b", 8, AfterString),
        ("m f=1 abc", 7, Time(q("abc"))),
        ("m f=1 9223372036854775808", 7, Time(q("9223372036854775808"))),
        ("m f=1 1 2", 9, AfterTime),
        ("m f=0123456789012345678901234567890123456789x", 5, Value(q("0123456789012345678901234567890123456789..."))),
    ] {
        assert_eq!(problem(text), (1, column, why.clone()), "{text}");
        let later = format!("# note\r\nm s=\"line\nend\" 1\n\n{text}\n");
        let (line, at, found) = problem(&later);
        // A closing line end turns an open string into one that swallows it, at the same place.
        assert_eq!((line, at, found), (5, column, why), "{later}");
    }
    let message = check(b"m f=1\nm,t=1 temp=2,f=abc 1").expect_err("a word").to_string();
    assert_eq!(message, "line 2, column 16: field value 'abc' is neither a number, boolean nor quoted string");
    assert_eq!(check(b"m f=1\nm f=\xff").map_err(|e| (e.line, e.column, e.why)), Err((2, 5, NotUtf8)));
}

#[test]
fn rows_measurements_and_missing_times_are_counted() {
    let none = check(b"\n# only a note\n  \r\n").expect("sound");
    assert_eq!((none.rows, none.measurement, none.missing_times), (0, None, 0));
    let one = check(b"m f=1\r\n  m f=2 5  \r\nm  f=3   6\r").expect("sound");
    assert_eq!((one.rows, one.measurement.as_deref(), one.missing_times), (3, Some("m"), 1));
    let same = check(b"a\\\\b f=1 1\na\\b f=1 2").expect("sound");
    assert_eq!(same.measurement.as_deref(), Some("a\\b"));
    let two = check(b"a f=1 1\nb f=1 2\na f=1 3").expect("sound");
    assert_eq!((two.rows, two.measurement), (3, None));
}

#[test]
fn a_name_given_twice_is_found_among_many() {
    let mut text = String::from("m ");
    for field in 0..5_000 {
        text += &format!("f{field}=1,");
    }
    assert!(check(text.trim_end_matches(',').as_bytes()).is_ok());
    for (again, column) in [("f3=1", text.len()), ("f\\4999=1", text.len()), ("f4999=2", text.len())] {
        let whole = format!("{text}{again}");
        let found = check(whole.as_bytes());
        match again {
            "f\\4999=1" => assert!(found.is_ok(), "a backslash before a digit is itself"),
            _ => assert_eq!(found.map_err(|e| e.column as usize), Err(column + 1), "{again}"),
        }
    }
}

#[test]
fn a_block_of_lines_knows_its_table_and_rows() {
    let block = Block::lines("a\\,b f=1\na\\,b f=2\n").expect("sound");
    assert_eq!((block.kind(), block.table(), block.rows()), (BlockKind::Lines, "a,b", 2));
    assert_eq!(Block::lines("a f=1\nb f=1").expect("sound").table(), "");
    let empty = Block::lines("# nothing\n").expect_err("no rows");
    assert_eq!((empty.line, empty.why), (1, LineProblem::NoRows));
    let long = Block::lines(format!("\n{} f=1\n", "x".repeat(256))).expect_err("too long");
    assert_eq!((long.line, long.column, long.why), (2, 1, LineProblem::LongMeasurement(256)));
}

#[test]
fn real_weather_is_sound() {
    let text = include_bytes!("../../../tests/data/nyc-weather-2000.lp");
    let checked = check(text).expect("sound");
    assert_eq!((checked.rows, checked.measurement.as_deref(), checked.missing_times), (2_000, Some("weather"), 0));
    let first = lines(text).next().expect("a line").expect("sound");
    assert_eq!(first.tags().next(), Some(("origin".into(), "EWR".into())));
    assert_eq!(first.fields().next(), Some(("temp".into(), FieldValue::Float(39.02))));
    assert_eq!(first.time(), Some(1_357_002_000_000_000_000));
}

#[test]
fn a_sound_text_is_read_again_as_it_was_the_first_time() {
    for text in [
        "m f=1\r\nm,a=b f=1 5  \r\n\n \t# f=1 7\n m f=t -3",
        "m a\\ 5=1\nm f=1,a\\ 5=1 7\n",
        "m\\,x,a\\ b=c\\=d\\  f=1   12   \n",
        "m,a=b\\\\ f=1 1\nm\\x f=1",
        "m s=\"a\nb\",f=1 4\nm f=1\r",
    ] {
        check(text.as_bytes()).expect(text);
        holds_for(text.as_bytes());
    }
}

/// Lines that are nearly alike, some of them with a mistake.
fn alike() -> impl Strategy<Value = Vec<u8>> {
    let tags = prop::sample::select(vec!["", ",a=1", ",a=1", ",a=22", ",a=1,b=2", ",a=", ",a=x\\ y", ",a=1=2", ",b=1"]);
    let fields = prop::sample::select(vec![
        "f=1",
        "f=1",
        "f=-2.5",
        "f=1,g=2i",
        "f=1,g=3i",
        "f=1,g=99999999999999999999i",
        "f=t",
        "f=",
        "f=1i",
        "f=1,f=2",
        "g=1",
        "f=\"x y\"",
        "f=1,",
    ]);
    let times = prop::sample::select(vec!["", " ", " 1", " 22", "  3 ", " x", " 1 2", "\r", " 7\r"]);
    let line = (prop::sample::select(vec!["m", "m", "mm", "m\\,"]), tags, fields, times);
    prop::collection::vec(line.prop_map(|(name, tags, fields, time)| format!("{name}{tags} {fields}{time}\n")), 1..8)
        .prop_map(|lines| lines.concat().into_bytes())
}

/// A text of what lines are made of, so that most attempts come far into the grammar.
fn nearly_lines() -> impl Strategy<Value = Vec<u8>> {
    let parts =
        ["m", "f", "=", ",", " ", "\n", "\r", "\\", "\"", "#", "1", "-", ".", "e", "i", "u", "t", "\u{fc}", "m f=1"];
    prop::collection::vec(prop::sample::select(parts.to_vec()), 0..60).prop_map(|parts| parts.concat().into_bytes())
}

fn holds_for(text: &[u8]) {
    let Ok(checked) = check(text) else {
        // Not what it is for; still it ends, without a panic.
        sound_rows(text).map_while(Result::ok).for_each(|row| {
            row.tags().for_each(drop);
            row.fields().for_each(drop);
        });
        return;
    };
    let again: Vec<Row<'_>> = sound_rows(text).collect::<Result<_, _>>().expect("checked");
    assert_eq!(again, lines(text).map(|line| *line.expect("checked")).collect::<Vec<_>>());
    let mut rows = 0;
    for line in lines(text) {
        let line = line.expect("checked");
        rows += 1;
        assert!(!line.measurement().is_empty() && line.fields().count() > 0);
        for (key, value) in line.tags() {
            assert!(!key.is_empty() && !value.is_empty());
        }
    }
    assert_eq!(rows, checked.rows);
    let mut from = 0;
    let mut cut = 0;
    // Alone, each line is read without those before it.
    let mut alone = Vec::new();
    while let Some(end) = line_end(text, from) {
        assert!(end > from);
        cut += check(&text[from..end]).expect("a whole line is sound alone").rows;
        alone.extend(lines(&text[from..end]).map(|line| line.expect("sound")).map(|line| (*line, line.shape())));
        from = end;
    }
    cut += check(&text[from..]).expect("so is the last").rows;
    assert_eq!(cut, checked.rows);
    alone.extend(lines(&text[from..]).map(|line| line.expect("sound")).map(|line| (*line, line.shape())));
    let together: Vec<_> = lines(text).map(|line| line.expect("sound")).map(|line| (*line, line.shape())).collect();
    assert_eq!(together, alone);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_get_an_answer(text in prop::collection::vec(any::<u8>(), 0..200)) {
        holds_for(&text);
    }

    #[test]
    fn nearly_sound_text_gets_an_answer_and_is_cut_where_lines_end(text in nearly_lines()) {
        holds_for(&text);
    }

    #[test]
    fn lines_are_judged_alike_whatever_stands_before_them(text in alike()) {
        holds_for(&text);
        let mut rows = 0;
        for line in std::str::from_utf8(&text).expect("text").split_inclusive('\n') {
            match check(line.as_bytes()) {
                Ok(_) => rows += 1,
                Err(error) => {
                    let found = check(&text).expect_err(line);
                    prop_assert_eq!((found.line, found.column, found.why), (rows + 1, error.column, error.why));
                    break;
                }
            }
        }
    }

    #[test]
    fn floats_come_back_exactly(x in any::<f64>().prop_filter("finite", |x| x.is_finite())) {
        prop_assert_eq!(value(&format!("{x}")), FieldValue::Float(x));
        prop_assert_eq!(value(&format!("{x:e}")), FieldValue::Float(x));
    }

    #[test]
    fn strings_come_back_exactly(text in any::<String>()) {
        let written = text.replace('\\', "\\\\").replace('"', "\\\"");
        prop_assert_eq!(value(&format!("\"{written}\"")), FieldValue::Text(text.into()));
    }
}
