//! Documents that mean harm: refused at once, with one clear error.

use conf::xml::{Document, MAX_ATTRIBUTES, MAX_BYTES, MAX_DEPTH, MAX_NAMESPACES, Writer};
use conf::{Error, ErrorKind, Network};

fn refused(text: &str) -> Error {
    let Err(error) = Document::parse(text) else {
        panic!("it was read: {:.200}", text);
    };
    assert_eq!(error.kind, ErrorKind::Xml);
    assert!(error.message.len() < 300, "{error}");
    error
}

#[test]
fn entities_are_not_expanded() {
    let laughs = "<!DOCTYPE n [<!ENTITY a 'ha'><!ENTITY b '&a;&a;'>]><network>&b;</network>";
    let message = refused(laughs).to_string();
    assert_eq!(
        message,
        "the document has a document type or entity declarations; they are not read \
         (line 1, column 1)"
    );
    refused("<network><!ENTITY a 'ha'>&a;</network>");
    refused("<!DOCTYPE n SYSTEM 'file:///etc/passwd'><network/>");
    let unknown = refused("<network><name>&a;</name></network>");
    assert_eq!(unknown.position, Some((1, 16)));
}

#[test]
fn no_limit_can_be_passed() {
    let long = format!("<network>{}</network>", " ".repeat(MAX_BYTES));
    assert!(refused(&long).message.contains("at most 4194304"));

    let nested = |depth: usize| format!("{}{}", "<a>".repeat(depth), "</a>".repeat(depth));
    assert!(Document::parse(&nested(MAX_DEPTH)).is_ok());
    let error = refused(&format!("\n{}", nested(MAX_DEPTH + 1)));
    assert_eq!(error.position, Some((2, 3 * 256 + 1)));

    let wide = |count: usize| {
        let attributes: String = (0..count).map(|n| format!(" a{n}='>'")).collect();
        format!("<a{attributes}/>")
    };
    assert!(Document::parse(&wide(MAX_ATTRIBUTES)).is_ok());
    assert!(
        refused(&wide(MAX_ATTRIBUTES + 1))
            .message
            .contains("256 attributes")
    );

    let spaced = |count: usize| {
        let children: String = (0..count)
            .map(|n| format!("<b\txmlns:n{n}='u{n}'/>"))
            .collect();
        format!("<a>{children}</a>")
    };
    assert!(Document::parse(&spaced(MAX_NAMESPACES)).is_ok());
    assert!(
        refused(&spaced(MAX_NAMESPACES + 1))
            .message
            .contains("256 namespace")
    );

    let many = format!("<a>{}</a>", "<b/>".repeat(300_000));
    assert!(refused(&many).message.contains("262144 nodes"));
    // What is only asked about is smaller.
    let asked = format!("<domain>{}</domain>", "<a/>".repeat(1 << 14));
    let error = conf::Domain::parse_asked(&asked).unwrap_err();
    assert!(error.message.contains("16384 nodes"), "{error}");
}

#[test]
fn comments_and_sections_hide_nothing_from_the_limits() {
    let hidden = format!(
        "<a><!-- {0} --><![CDATA[{0}]]><?p {0}?></a>",
        "<b><b ' <!DOCTYPE "
    );
    let document = Document::parse(&hidden).unwrap();
    assert_eq!(document.root().text(), "<b><b ' <!DOCTYPE ");
    refused("<a><!-- ' --><!DOCTYPE x></a>");
}

#[test]
fn only_utf8_is_read() {
    for encoding in ["UTF-8", "utf8", "us-ascii"] {
        let text = format!("<?xml version='1.0' encoding=\"{encoding}\"?><network/>");
        assert!(Document::parse(&text).is_ok(), "{encoding}");
    }
    let latin = refused("<?xml version='1.0' encoding='ISO-8859-1'?><network/>");
    assert!(
        latin.message.contains("'ISO-8859-1'; only UTF-8"),
        "{latin}"
    );
}

#[test]
fn what_is_not_well_formed_is_placed() {
    let cases = [
        ("<network>\n <name>a\0b</name></network>", Some((2, 9))),
        ("<network a='1' a='2'/>", Some((1, 16))),
        ("<network>\n</net>", Some((2, 1))),
        ("<network x:y='1'/>", Some((1, 10))),
        ("<network a=1/>", Some((1, 12))),
        ("<network :a='1'/>", Some((1, 10))),
        ("<network a='1'\n:a='1'/>", Some((2, 1))),
        ("<network><:name/></network>", Some((1, 11))),
        ("<network a='1':b='2'/>", Some((1, 15))),
        ("<network a='<'/>", Some((1, 13))),
        ("<network>&#1;</network>", Some((1, 10))),
        ("<network/><network/>", Some((1, 11))),
        ("", None),
        ("   ", None),
        ("<network>", Some((1, 1))),
        ("<network>\n<a/>\n  <b c='>'><d></d>\n", Some((3, 3))),
        ("<network><!-- <a> --><![CDATA[<b>]]>", Some((1, 1))),
    ];
    for (text, position) in cases {
        assert_eq!(refused(text).position, position, "{text:?}");
    }
    assert_eq!(
        refused("<network>\n <forward mode='nat'>\n").message,
        "not well-formed: <forward> is never closed"
    );
}

#[test]
fn metadata_keeps_its_bytes_and_its_namespaces() {
    let text = "<network xmlns:o='urn:outer' xmlns:unused='urn:u'><name>n</name>\
        <metadata><o:a xmlns:i=\"urn:inner\"  i:b = 'c'>&lt;\n\t<!-- kept --></o:a>\
        <a x='>'/></metadata></network>";
    let network = Network::parse(text).unwrap();
    let kept = "<metadata xmlns:o='urn:outer'><o:a xmlns:i=\"urn:inner\"  i:b = 'c'>&lt;\n\t\
        <!-- kept --></o:a><a x='>'/></metadata>";
    let metadata = network.metadata.clone().unwrap();
    assert_eq!(metadata.as_str(), kept);
    assert_eq!(metadata.name(), "metadata");
    let again = Network::parse(&network.to_xml(conf::Form::Inactive)).unwrap();
    assert_eq!(again.metadata, network.metadata);
}

#[test]
fn the_writer_leaves_nothing_to_be_misread() {
    let mut writer = Writer::new();
    let text = "<&>'\"\t\n\r\u{1}\u{fffe}é";
    writer.element("a", |w| {
        w.attribute("b", text);
        w.text_element("c", text);
        w.element("d", |_| {});
        w.element_with_end("e", |_| {});
        w.element_unless_empty("f", |_| {});
        w.element_spaced("g", |_| {});
    });
    let xml = writer.finish();
    assert_eq!(
        xml,
        "<a b='&lt;&amp;&gt;&apos;&quot;&#9;&#10;&#13;é'>\n  \
         <c>&lt;&amp;&gt;&apos;&quot;\t\n&#13;é</c>\n  <d/>\n  <e>\n  </e>\n  <g />\n</a>\n"
    );
    let document = Document::parse(&xml).unwrap();
    let sent = "<&>'\"\t\n\ré";
    assert_eq!(document.root().attribute("b"), Some(sent));
    assert_eq!(document.root().child("c").unwrap().text(), sent);
}
