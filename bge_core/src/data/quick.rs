//! Reads a row of the usual shape, a flat object of known columns with nothing wrong in it, by searching for the ends of its texts.
//!
//! Whatever is unusual is left to the parser of all JSON, which also says what is wrong; both fill the same
//! [`RecordView`], and where debug assertions are on each row that is read here is compared with what that parser reads.

use std::borrow::Cow;

use memchr::{memchr, memchr2};

use super::record::{Broken, RecordView, Slot, SlotList};

/// Memory that one row leaves to the next.
#[derive(Debug, Default)]
pub(super) struct Lists {
    texts: Vec<Vec<Slot<Cow<'static, str>>>>,
    numbers: Vec<Vec<Slot<f64>>>,
}

impl Lists {
    /// Takes back the lists of a row that is done with.
    pub(super) fn take_back(&mut self, view: &mut RecordView<'_>) {
        for list in [&mut view.pos, &mut view.neg] {
            if let Slot::Given(mut list) = std::mem::take(list) {
                list.clear();
                // Empty, it may hold texts of any lifetime; collected in its place, it keeps its memory.
                self.texts.push(list.into_iter().map(|_| Slot::Absent).collect());
            }
        }
        for list in [&mut view.pos_scores, &mut view.neg_scores] {
            if let Slot::Given(mut list) = std::mem::take(list) {
                list.clear();
                self.numbers.push(list);
            }
        }
    }
}

/// Fills an empty view from one line that holds exactly one JSON object. Texts with escapes are written to `room`.
pub(super) fn read<'a>(
    row: &'a [u8],
    room: &'a mut Vec<u8>,
    lists: &mut Lists,
    view: &mut RecordView<'a>,
) -> Result<(), Broken> {
    if room.len() < row.len() {
        room.resize(row.len(), 0);
    }
    if read_usual(row, room, lists, view).is_some() {
        debug_assert_eq!(RecordView::parse(row).as_ref(), Ok(&*view));
        return Ok(());
    }
    *view = RecordView::default();
    view.fill(row)
}

/// Fills an empty view, if the row is of the usual shape; otherwise the view is left half filled.
fn read_usual<'a>(
    row: &'a [u8],
    room: &'a mut [u8],
    lists: &mut Lists,
    view: &mut RecordView<'a>,
) -> Option<()> {
    // No text may hold a control character, and nobody writes one between two tokens.
    if row.iter().fold(u8::MAX, |least, byte| least.min(*byte)) < b' ' {
        return None;
    }
    let mut reader = Reader { rest: row, room };
    reader.object(lists, view)?;
    reader.rest.is_empty().then_some(())
}

struct Reader<'a> {
    rest: &'a [u8],
    room: &'a mut [u8],
}

impl<'a> Reader<'a> {
    fn object(&mut self, lists: &mut Lists, view: &mut RecordView<'a>) -> Option<()> {
        self.eat(b'{')?;
        loop {
            let key = self.key()?;
            self.eat(b':')?;
            match key {
                b"query" => self.one_text(&mut view.query)?,
                b"pos" => self.list(&mut view.pos, lists.texts.pop(), Self::some_text)?,
                b"neg" => self.list(&mut view.neg, lists.texts.pop(), Self::some_text)?,
                b"pos_scores" => self.list(&mut view.pos_scores, lists.numbers.pop(), Self::number)?,
                b"neg_scores" => self.list(&mut view.neg_scores, lists.numbers.pop(), Self::number)?,
                b"prompt" => self.one_text(&mut view.prompt)?,
                b"query_prompt" => self.one_text(&mut view.query_prompt)?,
                b"passage_prompt" => self.one_text(&mut view.passage_prompt)?,
                b"type" => self.one_text(&mut view.task_type)?,
                b"category" => self.one_text(&mut view.category)?,
                _ => return None,
            }
            if self.eat(b',').is_none() {
                return self.eat(b'}');
            }
        }
    }

    #[inline]
    fn blanks(&mut self) {
        while let [b' ', rest @ ..] = self.rest {
            self.rest = rest;
        }
    }

    /// Steps over blanks and this byte, if it is next.
    #[inline]
    fn eat(&mut self, wanted: u8) -> Option<()> {
        self.blanks();
        match self.rest {
            [byte, rest @ ..] if *byte == wanted => {
                self.rest = rest;
                Some(())
            }
            _ => None,
        }
    }

    /// Steps over so many bytes.
    #[inline]
    fn step(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (stepped, rest) = self.rest.split_at_checked(bytes)?;
        self.rest = rest;
        Some(stepped)
    }

    /// A key as written; one with an escape in it is not among the known ones.
    fn key(&mut self) -> Option<&'a [u8]> {
        self.eat(b'"')?;
        let key = self.step(memchr(b'"', self.rest)?)?;
        self.step(1)?;
        Some(key)
    }

    fn one_text(&mut self, slot: &mut Slot<Cow<'a, str>>) -> Option<()> {
        if *slot != Slot::Absent {
            return None;
        }
        *slot = Slot::Given(self.some_text()?);
        Some(())
    }

    fn list<T>(
        &mut self,
        slot: &mut SlotList<T>,
        kept: Option<Vec<Slot<T>>>,
        element: fn(&mut Self) -> Option<T>,
    ) -> Option<()> {
        if !matches!(slot, Slot::Absent) {
            return None;
        }
        let mut list = kept.unwrap_or_default();
        self.eat(b'[')?;
        if self.eat(b']').is_none() {
            loop {
                list.push(Slot::Given(element(self)?));
                if self.eat(b',').is_none() {
                    self.eat(b']')?;
                    break;
                }
            }
        }
        *slot = Slot::Given(list);
        Some(())
    }

    fn number(&mut self) -> Option<f64> {
        self.blanks();
        let ends = |byte: &u8| matches!(byte, b',' | b']' | b' ');
        let written = self.step(self.rest.iter().position(ends)?)?;
        serde_json::from_slice(written).ok()
    }

    fn some_text(&mut self) -> Option<Cow<'a, str>> {
        self.text().map(Cow::Borrowed)
    }

    #[inline]
    fn text(&mut self) -> Option<&'a str> {
        self.eat(b'"')?;
        let end = memchr2(b'"', b'\\', self.rest)?;
        if self.rest.get(end) == Some(&b'\\') {
            return self.text_with_escapes();
        }
        let text = self.step(end)?;
        self.step(1)?;
        simdutf8::basic::from_utf8(text).ok()
    }

    fn text_with_escapes(&mut self) -> Option<&'a str> {
        let mut room = Room {
            bytes: std::mem::take(&mut self.room),
            used: 0,
        };
        loop {
            let escape = match *self.rest {
                [b'"', ..] => break,
                [b'\\', escape, ..] => escape,
                [b'\\'] => return None,
                _ => {
                    room.write(self.step(memchr2(b'"', b'\\', self.rest)?)?)?;
                    continue;
                }
            };
            self.step(2)?;
            let character = match escape {
                b'"' | b'\\' | b'/' => char::from(escape),
                b'n' => '\n',
                b't' => '\t',
                b'r' => '\r',
                b'b' => '\u{8}',
                b'f' => '\u{c}',
                b'u' => self.unicode()?,
                _ => return None,
            };
            room.write_character(character)?;
        }
        self.step(1)?;
        let (text, rest) = room.bytes.split_at_mut_checked(room.used)?;
        self.room = rest;
        simdutf8::basic::from_utf8(text).ok()
    }

    /// The character after `\u`, of one or two halves.
    fn unicode(&mut self) -> Option<char> {
        let first = self.four_digits()?;
        if !(0xd800..0xe000).contains(&first) {
            return char::from_u32(first);
        }
        if self.step(2)? != br"\u" {
            return None;
        }
        let second = self.four_digits()?;
        if first >= 0xdc00 || !(0xdc00..0xe000).contains(&second) {
            return None;
        }
        char::from_u32(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00))
    }

    #[inline]
    fn four_digits(&mut self) -> Option<u32> {
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let [a, b, c, d, rest @ ..] = self.rest else {
            return None;
        };
        self.rest = rest;
        Some(digit(*a)? << 12 | digit(*b)? << 8 | digit(*c)? << 4 | digit(*d)?)
    }
}

/// Where a text with escapes is written.
struct Room<'a> {
    bytes: &'a mut [u8],
    used: usize,
}

impl Room<'_> {
    fn write(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.used + bytes.len();
        self.bytes.get_mut(self.used..end)?.copy_from_slice(bytes);
        self.used = end;
        Some(())
    }

    #[inline]
    fn write_character(&mut self, character: char) -> Option<()> {
        let room = self.bytes.get_mut(self.used..self.used + character.len_utf8())?;
        self.used += character.encode_utf8(room).len();
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: [&str; 9] = [
        r#"{"query": "q", "pos": ["p"], "neg": ["n", "m"]}"#,
        r#"{"query":"","pos":["p","p2"],"neg":[],"pos_scores":[1,-0.25],"neg_scores":[]}"#,
        r#"{"pos":["\"quoted\" \\ \/ \b\f\n\r\t end"],"query":"plain","neg":["\u6771\u4eac","x\ud83d\ude00y\u0000"]}"#,
        r#"{ "query" : "naïve 東京 😀" , "pos" : [ "a" , "b\u00e9" ] , "pos_scores" : [ 0.93 , 1e-05 , 17 ] }"#,
        r#"{"query":"q","pos":["p"],"prompt":"i","query_prompt":"j","passage_prompt":"k","type":"normal","category":"c"}"#,
        r#"{"query":"q","pos_scores":[0.1000000000000000055511151231257827,-0,-1.7976931348623157e308,9007199254740993]}"#,
        r#"{"query":"A text of more than sixty-four bytes, from which length on UTF-8 is checked in blocks: 東京","pos":["p"]}"#,
        r#"{"query":"\ud83d\ude00","pos":["\u0041"]}"#,
        r#"{"query":"q"}"#,
    ];

    /// Whether the row is read here; if it is, it must be to what the parser of all JSON makes of it.
    fn is_usual(row: &[u8], lists: &mut Lists) -> bool {
        let (mut room, mut view) = (vec![0; row.len()], RecordView::default());
        let usual = read_usual(row, &mut room, lists, &mut view).is_some();
        if usual {
            let expected = RecordView::parse(row);
            // Written out, zero and minus zero differ, too.
            let (read, expected) = (format!("{view:?}"), format!("{:?}", expected.unwrap()));
            assert_eq!(read, expected, "{}", String::from_utf8_lossy(row));
        }
        lists.take_back(&mut view);
        usual
    }

    #[test]
    fn usual_rows_are_read_as_by_the_parser_of_all_json_and_leave_their_memory() {
        let mut lists = Lists::default();
        for row in USUAL.iter().cycle().take(100) {
            assert!(is_usual(row.as_bytes(), &mut lists), "{row}");
        }
        assert!(lists.texts.len() <= 2 && lists.numbers.len() <= 2);
        assert!(
            lists
                .texts
                .iter()
                .all(|list| list.is_empty() && list.capacity() > 0)
        );
    }

    #[test]
    fn all_else_is_left_to_it() {
        for row in [
            &b""[..],
            b"{}",
            b"[]",
            b"null",
            br#"{"query":"q"} x"#,
            br#"{"query":"q"}}"#,
            br#"{"query":"q",}"#,
            br#"{"query":"q" "pos":["p"]}"#,
            br#"{"query":"q","query":"r"}"#,
            br#"{"query":"q","pos":["p"],"pos":["p"]}"#,
            br#"{"query":null}"#,
            br#"{"query":3}"#,
            br#"{"query":"q","pos":"p"}"#,
            br#"{"query":"q","pos":["p",]}"#,
            br#"{"query":"q","pos":[1]}"#,
            br#"{"query":"q","id":"7"}"#,
            br#"{"qu\u0065ry":"q"}"#,
            br#"{"query":"\q"}"#,
            br#"{"query":"\u12"}"#,
            br#"{"query":"\u+123"}"#,
            br#"{"query":"\ud83d"}"#,
            br#"{"query":"\ud83dxx\ude00"}"#,
            br#"{"query":"\ude00\ud83d"}"#,
            b"{\"query\":\"a\tb\"}",
            b"{\"query\":\"a\0b\"}",
            b"{\"query\":\"caf\xe9\"}",
            b"{\"query\":\"\\ncaf\xe9\"}",
            b"{\t\"query\":\"q\"}",
            br#"{"pos_scores":[01]}"#,
            br#"{"pos_scores":[+1]}"#,
            br#"{"pos_scores":[.5]}"#,
            br#"{"pos_scores":[1.]}"#,
            br#"{"pos_scores":[NaN]}"#,
            br#"{"pos_scores":[-Infinity]}"#,
            br#"{"pos_scores":[1e999]}"#,
            br#"{"pos_scores":[null]}"#,
            br#"{"pos_scores":["1"]}"#,
            br#"{"pos_scores":[]x}"#,
        ] {
            let usual = is_usual(row, &mut Lists::default());
            assert!(!usual, "{}", String::from_utf8_lossy(row));
        }
    }

    #[test]
    fn a_row_that_is_cut_off_or_has_another_byte_anywhere_is_read_alike() {
        let (mut lists, mut unusual) = (Lists::default(), 0);
        for row in USUAL {
            for at in 0..row.len() {
                is_usual(&row.as_bytes()[..at], &mut lists);
                for byte in b"\"\\{}[],: \tu0d8x-.e\xe6\x9d\xff" {
                    let mut changed = row.as_bytes().to_vec();
                    changed[at] = *byte;
                    unusual += u32::from(!is_usual(&changed, &mut lists));
                    let (mut room, mut view) = (Vec::new(), RecordView::default());
                    let read = read(&changed, &mut room, &mut lists, &mut view);
                    assert_eq!(read.map(|()| view), RecordView::parse(&changed));
                }
            }
        }
        assert!(unusual > 1000);
    }
}
