//! What queries mean, and what is no query.

use std::fmt::Write as _;

use proptest::prelude::*;
use roxmltree::Document;

use super::*;

const STEPS: u32 = 20_000;

/// A query's answer for a body and variables.
fn ask(query: &str, body: &str, variables: &[(&str, Atomic)]) -> Result<bool, Fault> {
    let query = Query::compile(query).unwrap_or_else(|error| panic!("{query}: {error}"));
    let body = Document::parse(body).ok();
    let find =
        |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
    query.matches(body.as_ref(), &find, &mut { STEPS })
}

/// Whether each query is true of the body.
fn all_true(body: &str, queries: &[&str]) {
    for query in queries {
        assert_eq!(ask(query, body, &[]), Ok(true), "{query}");
        assert_eq!(ask(&format!("not({query})"), body, &[]), Ok(false), "{query}");
    }
}

fn text(text: &str) -> Atomic {
    Atomic::text(text)
}

const WEATHER: &str = "<weather><station>Raleigh-Durham International Airport (KRDU)</station>\
                       <wind_speed_mph>16</wind_speed_mph><temperature_f>70</temperature_f>\
                       <dewpoint>35</dewpoint></weather>";

/// The query of the peer's manual and examples.
const WIND: &str = "let $w := ./weather return $w/station = 'Raleigh-Durham International Airport (KRDU)' \
                and $w/temperature_f > 50 and $w/temperature_f - $w/dewpoint > 5 \
                and $w/wind_speed_mph > 7 and $w/wind_speed_mph < 20";

const SHOP: &str = "<?xml version='1.0'?><shop xmlns:p='urn:price'><!-- today --><?sort by price?>\
                    <item id='1' kind='book'>A<p:price>12.50</p:price></item>\
                    <item id='2' kind='pen'>B<p:price>3</p:price><note>cheap</note></item>\
                    <item id='3' kind='book'>C<p:price>30</p:price></item><empty/></shop>";

#[test]
fn queries_of_the_peer_s_manual_and_tests() {
    assert_eq!(ask(WIND, WEATHER, &[]), Ok(true));
    assert_eq!(ask(WIND, &WEATHER.replace("16", "21"), &[]), Ok(false));
    assert_eq!(ask(WIND, &WEATHER.replace("70", "40"), &[]), Ok(false));
    assert_eq!(ask("./weather", WEATHER, &[]), Ok(true));
    assert_eq!(ask("./weather", "<news/>", &[]), Ok(false));
    let colour = "declare variable $color external;(./message/id mod 2 = 1) and ($color = 'blue')";
    let odd = "<message><id>1</id></message>";
    assert_eq!(ask(colour, odd, &[("color", text("blue"))]), Ok(true));
    assert_eq!(ask(colour, odd, &[("color", text("red"))]), Ok(false));
    assert_eq!(ask(colour, &odd.replace('1', "2"), &[("color", text("blue"))]), Ok(false));
    assert_eq!(ask("./colour = 'blue'", "<colour>blue</colour>", &[]), Ok(true));
    let variables = [("s", text("string")), ("i", Atomic::Integer(1)), ("d", Atomic::Double(0.5))];
    for types in [["", "", ""], ["as xs:string", "as xs:integer", ""]] {
        let [s, i, d] = types;
        let query = format!(
            "declare variable $s {s} external;declare variable $i {i} external;\
             declare variable $d {d} external;$s = 'string' and $i = 1 and $d < 1"
        );
        assert_eq!(ask(&query, "<message>Hi, Mom!</message>", &variables), Ok(true));
    }
    assert_eq!(ask("true()", "not XML", &[]), Ok(true));
}

#[test]
fn an_empty_query_matches_everything() {
    for query in ["", "  \n "] {
        assert_eq!(ask(query, "no XML at all", &[]), Ok(true));
        assert!(!Query::compile(query).unwrap().uses_body());
    }
}

#[test]
fn flwor() {
    all_true(
        SHOP,
        &[
            "for $i in ./shop/item where $i/@kind = 'pen' return true()",
            "exists(for $i in ./shop/item let $k := $i/@kind where $k = 'pen' and $i/note return $i)",
            "count(for $a in 1 to 3, $b in 1 to $a return $b) = 6",
            "(for $i at $n in ./shop/item where $n = 2 return string($i/@id)) = '2'",
            "string-join(for $i in ./shop/item order by number($i/*:price) return $i/@id, '') = '213'",
            "string-join(for $i in //item order by $i/@kind, $i/@id descending return string($i/@id), '') = '312'",
            "string-join(for $i in //item stable order by $i/note empty greatest return $i/@id, ' ') = '2 1 3'",
            "let $x := 1, $y := $x + 1 let $x := $y return $x = 2",
            "for $x as xs:integer in (1, 2) let $y as xs:integer := $x where $y > 1 return $x",
            "some $i in //item, $j in //item satisfies $i/@kind = $j/@kind and not($i is $j)",
            "every $i in //item satisfies $i/@id > 0",
            "not(every $i in //item satisfies $i/note)",
            "every $i in () satisfies false()",
            "(if (//note) then 'a' else 'b') = 'a'",
        ],
    );
    assert_eq!(ask("for $i in ./shop/item where $i/@kind = 'car' return true()", SHOP, &[]), Ok(false));
}

#[test]
fn paths() {
    all_true(
        SHOP,
        &[
            "/shop/item[2]/note",
            "//item[@kind = 'book'][2]/@id = '3'",
            "//note/../@id = '2'",
            "//note/parent::item/@id = 2",
            "count(//item/ancestor::node()) = 2",
            "count(//note/ancestor-or-self::*) = 3",
            "//item[1]/following-sibling::item[1]/@id = 2",
            "//item[3]/preceding-sibling::item[1]/@id = 2",
            "count(//item[1]/following::node()) = 11",
            "//item[last()]/preceding::note",
            "count(/shop/child::node()) = 6",
            "count(/shop/descendant::text()) = 7",
            "count(//@*) = 6",
            "count(//attribute::kind) = 3",
            "count(//item/@id/..) = 3",
            "//comment() = ' today '",
            "/shop/processing-instruction('sort') = 'by price'",
            "count(/shop/processing-instruction()) = 1",
            "count(/descendant-or-self::element(item)) = 3",
            "/shop/*[last()]/self::empty",
            "count(/shop/*) = 4",
            "count((//item | //note | //item)) = 4",
            "count(//item except //item[note]) = 2",
            "count(//item intersect //*[note]) = 1",
            "(//item)[2]/@id = '2'",
            "(//item ! @id)[3] = 3",
            "//item[position() = last()]/@id = 3",
            "//item[. = 'B3cheap']",
            "//item[1] << //item[2] and //item[2] >> //item[1]",
            "/shop/item/(@id, note)[. = 'cheap']",
            "//*:price = 30",
            "count(//price) = 0",
            "not(/shop/missing/deeper)",
            "root(//note) is /",
        ],
    );
    for query in ["//q:price > 29", "count(//q:*) = 3", "//@q:none or //q:price"] {
        let query = format!("declare namespace q = 'urn:price'; {query}");
        assert_eq!(ask(&query, SHOP, &[]), Ok(true), "{query}");
    }
    let within = "<a xmlns='urn:a' c='2'><b>1</b></a>";
    all_true(within, &["not(./a)", "*:a/*:b", "local-name(*) = 'a'", "namespace-uri(*) = 'urn:a'"]);
    let default = "declare default element namespace 'urn:a'; ./a/b = 1 and ./a/@c = 2";
    assert_eq!(ask(default, within, &[]), Ok(true));
}

#[test]
fn comparisons_see_what_stands_in_a_document_as_the_other_side_is() {
    let body = "<m><n>10</n><t>abc</t><y>true</y><e/></m>";
    all_true(
        body,
        &[
            "./m/n > 9",
            "./m/n = 10.0",
            "./m/n = '10'",
            "not(./m/n = '10.0')",
            "./m/n < '9'",
            "./m/y = true()",
            "./m/n != 9",
            "(1, 2, 3) = 3",
            "(1, 2) != 1",
            "not((1, 2) = ())",
            "./m/t eq 'abc'",
            "'b' gt 'a'",
            "2 ge 2 and 1 lt 2 and 1 ne 2 and 1 le 1",
            "0.1 < 0.2",
            "not(number('x') = number('x'))",
            "number('x') != 1",
        ],
    );
    for fault in
        ["./m/t > 5", "'a' = 1", "./m/n eq 10", "(1, 2) eq 1", "./m/e + 1 = 1", "1 div 0", "1 idiv 0"]
    {
        assert_eq!(ask(fault, body, &[]), Err(Fault::Type), "{fault}");
    }
}

#[test]
fn arithmetic_and_types() {
    all_true(
        "<m><n>7</n></m>",
        &[
            "1 + 2 * 3 - 4 = 3",
            "-2 + 5 = 3",
            "--1 = 1",
            "7 div 2 = 3.5",
            "7 idiv 2 = 3",
            "-7 mod 3 = -1",
            "./m/n mod 2 = 1",
            "1.5 + 1.5 = 3",
            "1e3 = 1000",
            ".5 = 0.5",
            "1 div 0e0 = xs:double('INF')",
            "2 to 4 = 3",
            "empty(4 to 2)",
            "'a' || 'b' || 1 = 'ab1'",
            "5 instance of xs:integer",
            "5 instance of xs:decimal",
            "not(5.0 instance of xs:integer)",
            "(1, 2) instance of xs:integer+",
            "() instance of empty-sequence()",
            "() instance of item()*",
            "not((1, 2) instance of xs:integer?)",
            "./m instance of element(m)",
            "./m/n/text() instance of text()",
            "xs:integer('12') = 12",
            "xs:integer(' 12 ') + 1 = 13",
            "'12' cast as xs:double = 12",
            "'x' castable as xs:integer = false()",
            "'300' castable as xs:byte = false()",
            "'12' castable as xs:int",
            "xs:boolean('true')",
            "xs:string(12) = '12'",
            "empty(() cast as xs:integer?)",
            "(5 treat as xs:integer) = 5",
            "9223372036854775807 - 1 = 9223372036854775806",
        ],
    );
    for fault in ["9223372036854775807 + 1", "'a' + 1", "('a' treat as xs:integer) = 1", "xs:integer('1.5')"]
    {
        assert_eq!(ask(fault, "<m/>", &[]), Err(Fault::Type), "{fault}");
    }
}

#[test]
fn functions() {
    all_true(
        "<m><n>3</n><n>1</n><n>2</n><t>  two   words </t></m>",
        &[
            "count(//n) = 3 and sum(//n) = 6 and avg(//n) = 2 and min(//n) = 1 and max(//n) = 3",
            "sum(()) = 0 and empty(avg(())) and sum((), 5) = 5",
            "normalize-space(//t) = 'two words'",
            "//t/normalize-space() = 'two words'",
            "string-length('Grüße') = 5",
            "concat('a', 1, 'b') = 'a1b'",
            "string-join(('a', 'b'), '-') = 'a-b'",
            "substring('12345', 2, 3) = '234' and substring('12345', 4) = '45' and substring('12345', 0, 3) = '12'",
            "substring-before('a=b', '=') = 'a' and substring-after('a=b', '=') = 'b' and substring-before('a', '=') = ''",
            "contains('abc', 'b') and starts-with('abc', 'a') and ends-with('abc', 'c') and contains('a', '')",
            "upper-case('aß') = 'ASS' and lower-case('A') = 'a'",
            "translate('bar', 'abc', 'AB') = 'BAr' and translate('abc', 'b', '') = 'ac'",
            "compare('a', 'b') = -1 and empty(compare((), 'b'))",
            "matches('ABC', '^a', 'i') and not(matches('abc', '^b')) and matches('a.c', 'a.c', 'q')",
            "replace('a1b2', '[0-9]', '#') = 'a#b#' and replace('ab', '(a)(b)', '$2$1') = 'ba'",
            "replace('a', 'a', '\\$') = '$'",
            "tokenize('a,b,c', ',') = 'c' and count(tokenize('a b')) = 2 and empty(tokenize('', ','))",
            "abs(-3) = 3 and floor(1.5) = 1 and ceiling(1.5) = 2 and round(2.5) = 3 and round(-2.5) = -2",
            "round-half-to-even(2.5) = 2 and abs(-1.5) = 1.5",
            "distinct-values(('b', 'a', 'a'))[2] = 'a' and count(distinct-values((1, 1.0, 'a'))) = 2",
            "index-of((5, 6, 5), 5) = 3 and reverse((1, 2))[1] = 2 and head((1, 2)) = 1 and tail((1, 2)) = 2",
            "subsequence((1, 2, 3), 2)[1] = 2 and count(subsequence((1, 2, 3), 1, 2)) = 2",
            "insert-before((1, 3), 2, 2)[2] = 2 and count(remove((1, 2), 1)) = 1",
            "exists((1)) and empty(()) and boolean('a') and not(boolean(''))",
            "count(data(//n)) = 3 and string(//t) = '  two   words ' and number(//n[1]) = 3",
            "insert-before(1, -9223372036854775807 - 1, 2)[1] = 2 and remove(1, -9223372036854775807 - 1) = 1",
            "zero-or-one(()) or true()",
            "exactly-one(5) = 5 and one-or-more((1, 2)) = 2",
            "deep-equal((1, 'a'), (1, 'a')) and not(deep-equal((1, 2), (1)))",
            "string-to-codepoints('ab') = 98 and codepoints-to-string((97, 98)) = 'ab'",
            "name(*) = 'm' and local-name(//n[1]) = 'n' and namespace-uri(*) = ''",
            "fn:true() and fn:contains('a', 'a')",
        ],
    );
    assert_eq!(ask("exactly-one(//n) = 1", "<m><n/><n/></m>", &[]), Err(Fault::Type));
    assert_eq!(ask("matches('a', '(')", "<m/>", &[]), Err(Fault::Type));
}

#[test]
fn words_are_names_where_names_stand() {
    let body = "<for><return>1</return><and>2</and><if>3</if><div>4</div><text>5</text><eq-1>6</eq-1></for>";
    all_true(
        body,
        &[
            "./for/return = 1",
            "for/and and for/if",
            "for $return in for/return return $return = 1",
            "for/div div 2 = 2",
            "for/text/text() = '5'",
            "for/eq-1 = 6",
            "for/eq-1 -1 = 5",
            "for (: a comment (: in a comment :) :) /return",
            "\"it's \"\"so\"\"\" = 'it''s \"so\"'",
            "'&lt;&#65;&#x42;&amp;&apos;' = \"<AB&amp;'\"",
            "* and */*",
            "for/div*for/div = 16",
        ],
    );
}

#[test]
fn variables_of_the_prolog() {
    let prolog = "xquery version \"1.0\"; declare boundary-space preserve; declare option local:o 'x';\
                  declare namespace p = 'urn:p'; declare variable $limit := 5; declare variable $n as xs:integer external;\
                  declare variable $m external := $limit + 1; declare variable $p:q external;";
    let query = |expr: &str| format!("{prolog} {expr}");
    let n = [("n", Atomic::Integer(7))];
    assert_eq!(ask(&query("$n > $limit and $m = 6"), "", &n), Ok(true));
    assert_eq!(ask(&query("$m = 9"), "", &[n[0].clone(), ("m", Atomic::Integer(9))]), Ok(true));
    assert_eq!(ask(&query("$n > 0"), "", &[("n", text("7"))]), Err(Fault::Type), "it is declared otherwise");
    assert_eq!(ask(&query("$n > 0 and $p:q"), "", &n), Err(Fault::NoVariable));
    assert_eq!(ask(&query("$n > 9 and $p:q"), "", &n), Ok(false), "nobody looks at it");
    assert_eq!(ask(&query("$limit = 5"), "", &[]), Ok(true));
    assert_eq!(
        ask("declare variable $flag external; $flag", "", &[("flag", Atomic::Boolean(false))]),
        Ok(false)
    );
    for flag in ["$flag = 1", "$flag = true()", "$flag"] {
        let query = format!("declare variable $flag external; {flag}");
        assert_eq!(ask(&query, "", &[("flag", Atomic::Boolean(true))]), Ok(true), "{flag}");
    }
}

#[test]
fn the_body_is_looked_at_only_if_it_makes_a_difference() {
    for without in [
        "true()",
        "1 = 1",
        "for $i in (1, 2)[. = 2] return $i",
        "('a', 'b')[last()] = 'b'",
        "('a') ! string() = 'a'",
    ] {
        assert!(!Query::compile(without).unwrap().uses_body(), "{without}");
        assert_eq!(ask(without, "not XML", &[]), Ok(true), "{without}");
    }
    for with in [".", "a", "/", "//a", "@a", "string()", "position() = 1", "declare variable $x := ./a; $x"] {
        assert!(Query::compile(with).unwrap().uses_body(), "{with}");
        assert_eq!(ask(with, "not XML", &[]), Err(Fault::NoBody), "{with}");
    }
}

#[test]
fn what_does_not_parse_is_refused_with_its_place() {
    for (query, line, column, reason) in [
        ("./colour $=! 'blue'", 1, 10, "expected an operator or the end, found '$'"),
        ("a = ", 1, 5, "expected an expression, and the query ends"),
        ("let $x := 1\nreturn $y", 2, 8, "the variable $y is not declared"),
        ("true(", 1, 6, "expected an expression, and the query ends"),
        ("a[1", 1, 4, "expected ']', and the query ends"),
        ("'abc", 1, 1, "the string does not end"),
        ("(: abc", 1, 1, "the comment does not end"),
        (
            "for $x in a where $x",
            1,
            21,
            "expected 'for', 'let', 'where', 'order by' or 'return', and the query ends",
        ),
        ("doc('file:/etc/passwd')", 1, 1, "there is no function 'doc' with 1 arguments"),
        ("contains('a')", 1, 1, "there is no function 'contains' with 1 arguments"),
        ("xs:colour('a')", 1, 1, "there is no type 'colour' with 1 arguments"),
        ("p:a", 1, 1, "the prefix 'p' is not declared"),
        ("<a/>", 1, 1, "constructors are not supported"),
        ("declare function local:f() { 1 }; 1", 1, 17, "functions of one's own are not supported"),
        ("import module 'm'; 1", 1, 14, "nothing can be imported"),
        ("ä = $ö", 1, 5, "the variable $ö is not declared"),
        ("99999999999999999999", 1, 1, "the number is too large"),
        ("1a", 1, 2, "a name right behind a number"),
        ("'a&b'", 1, 3, "an '&' that begins no reference; write '&amp;'"),
        ("declare variable $x external $x", 1, 30, "expected ';', found '$'"),
        ("if (1) then 2", 1, 14, "expected 'else', and the query ends"),
        ("1 instance of colour", 1, 15, "there is no type 'colour'"),
    ] {
        let error = Query::compile(query).unwrap_err();
        assert_eq!((error.line, error.column, error.reason.as_str()), (line, column, reason), "{query}");
    }
    assert_eq!(
        Query::compile("\n a b").unwrap_err().to_string(),
        "line 2, column 4: expected an operator or the end, found 'b'"
    );
}

#[test]
fn nothing_nests_without_bound() {
    let deep = |open: &str, close: &str| format!("{}1{}", open.repeat(20_000), close.repeat(20_000));
    for query in [
        deep("(", ")"),
        deep("not(", ")"),
        deep("a[", "]"),
        deep("for $a in ", " return 1"),
        deep("let $a := 1 return ", ""),
        deep("if (1) then 2 else ", ""),
        deep("some $a in 1 satisfies ", ""),
        deep("1 + ", ""),
        deep("a/", ""),
        deep("a | ", ""),
        deep("1 ! ", ""),
        deep("1 || ", ""),
        format!("for {} return 1", vec!["$a in 1"; 20_000].join(",")),
        format!("some {} satisfies 1", vec!["$a in 1"; 20_000].join(",")),
    ] {
        let error = Query::compile(&query).unwrap_err();
        assert_eq!(error.reason, "the query is nested too deeply", "{}", &query[..40]);
    }
    for wide in [
        vec!["./a = 1"; 2_000].join(" or "),
        vec!["true()"; 10_000].join(" and "),
        format!("count(({})) = 10000", vec!["'a'"; 10_000].join(",")),
        deep("-", "").replace('1', "-1"),
    ] {
        assert!(Query::compile(&wide).is_ok(), "{}", &wide[..40]);
    }
    let body = format!("{}{}", "<a>".repeat(20_000), "</a>".repeat(20_000));
    assert_eq!(ask("count(//a) > 5", &body, &[]), Err(Fault::Exhausted));
    assert_eq!(ask("a/a/a", &body, &[]), Ok(true));
}

#[test]
fn what_costs_too_much_ends() {
    let mut body = String::from("<m>");
    for n in 0..2_000 {
        write!(body, "<n>{n}</n>").unwrap();
    }
    body.push_str("</m>");
    for query in [
        "count(1 to 1000000000) > 0",
        "1 to 9223372036854775807 = 5",
        "count(for $a in 1 to 1000, $b in 1 to 1000 return 1) > 5",
        "some $a in 1 to 1000, $b in 1 to 1000 satisfies $a + $b = 0",
        "//n = (for $n in //n return -1 - $n)",
        "count(//n/following::n) > 0",
        "count(distinct-values(//n)) = 2000",
        "string-length(string-join(for $a in 1 to 90000 return 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', '')) > 5",
        "let $a := string-join(for $i in 1 to 5000 return 'aaaaaaaaaaaaaaaa', '') return \
         string-length(for $i in 1 to 500 return $a || $a)",
        "count(for $i in 1 to 5000 return matches('a', concat('a', $i))) = 5",
        "string-length(string-join(for $i in 1 to 9000 return string(.), ',')) = 5",
        "let $a := string(.) return string-length(string-join(for $i in 1 to 9000 return $a, '')) = 5",
        "let $a := string(.), $b := (for $i in 1 to 1000 return $a) return $b != $b",
        "string-length(replace(string(.), '.', string(.))) > 5",
        "count(distinct-values(for $i in 1 to 9000 return concat($i, string(.)))) = 5",
    ] {
        assert_eq!(ask(query, &body, &[]), Err(Fault::Exhausted), "{query}");
    }
    let mut steps = 10;
    let query = Query::compile("1 + 1 = 2").unwrap();
    assert_eq!(query.matches(None, &|_| None, &mut steps), Ok(true));
    assert!((1..10).contains(&steps), "it costs something, and the rest is left");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is said, it is an answer or an error with a place in the text.
    #[test]
    fn no_text_does_harm(parts in prop::collection::vec(prop::sample::select(PARTS.to_vec()), 0..24)) {
        let query = parts.join(" ");
        match Query::compile(&query) {
            Ok(query) => {
                let body = Document::parse(SHOP).unwrap();
                let externals = |_: &str| Some(Atomic::Integer(1));
                let _ = query.matches(Some(&body), &externals, &mut { STEPS });
                let _ = query.matches(None, &externals, &mut { STEPS });
            }
            Err(error) => prop_assert!(error.line == 1 && error.column <= query.chars().count() + 1),
        }
    }
}

const PARTS: [&str; 60] = [
    "for",
    "let",
    "$a",
    "$b",
    "in",
    ":=",
    "return",
    "where",
    "order by",
    "some",
    "every",
    "satisfies",
    "if",
    "then",
    "else",
    "(",
    ")",
    "[",
    "]",
    "/",
    "//",
    ".",
    "..",
    "@",
    "*",
    "item",
    "price",
    "::",
    "child::",
    "ancestor::",
    "text()",
    "1",
    "2.5",
    "1e1",
    "'s'",
    "\"t\"",
    "=",
    "!=",
    "<",
    ">",
    "eq",
    "is",
    "<<",
    "|",
    "||",
    "!",
    "+",
    "-",
    "div",
    "mod",
    "to",
    "and",
    "or",
    ",",
    "instance of",
    "xs:integer",
    "cast as",
    "count(",
    "not(",
    "declare variable $a external;",
];

#[test]
fn a_usual_query_costs_little() {
    let query = Query::compile(WIND).unwrap();
    let body = Document::parse(WEATHER).unwrap();
    let mut steps = STEPS;
    assert_eq!(query.matches(Some(&body), &|_| None, &mut steps), Ok(true));
    assert!(STEPS - steps < 200, "{} steps", STEPS - steps);
}
