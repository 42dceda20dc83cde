//! The two macros that declare a message: its fields are written down once, and type, encoder,
//! decoder and smallest size follow from them.

/// Encodes, decodes, measures or checks one field; a number after the type is the maximum of a counted one.
macro_rules! field {
    (put $w:expr, $v:expr, $t:ty) => {
        <$t as $crate::xdr::Xdr>::encode($v, $w)
    };
    (put $w:expr, $v:expr, $t:ty, $max:expr) => {
        <$t as $crate::xdr::Bounded>::encode_max($v, $max, $w)
    };
    (get $r:expr, $t:ty) => {
        <$t as $crate::xdr::Xdr>::decode($r)
    };
    (get $r:expr, $t:ty, $max:expr) => {
        <$t as $crate::xdr::Bounded>::decode_max($max, $r)
    };
    (unknown $v:expr, $t:ty) => {
        <$t as $crate::xdr::Xdr>::unknown_flags($v)
    };
    // Lists have no flags.
    (unknown $v:expr, $t:ty, $max:expr) => {
        0
    };
    (min $t:ty) => {
        <$t as $crate::xdr::Xdr>::MIN
    };
    // A count at least.
    (min $t:ty, $max:expr) => {
        4
    };
}

/// Declares a structure of the wire: `pub struct Name { field: Type, list: Vec<Type> [maximum] }`.
macro_rules! wire_struct {
    ($(
        $(#[$meta:meta])*
        pub struct $name:ident { $( $(#[$fmeta:meta])* $field:ident : $t:ty $([$max:expr])? ),* $(,)? }
    )*) => { $(
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name { $( $(#[$fmeta])* pub $field: $t, )* }

        impl $crate::xdr::Xdr for $name {
            const MIN: usize = 0 $( + $crate::macros::field!(min $t $(, $max)?) )*;

            fn encode(&self, w: &mut $crate::xdr::Writer) {
                let _ = &w; // a structure without fields does not use it
                $( $crate::macros::field!(put w, &self.$field, $t $(, $max)?); )*
            }

            fn decode(
                r: &mut $crate::xdr::Reader<'_>,
            ) -> Result<Self, $crate::xdr::DecodeError> {
                let _ = &r;
                Ok(Self { $( $field: $crate::macros::field!(get r, $t $(, $max)?)?, )* })
            }

            fn unknown_flags(&self) -> u64 {
                0 $( | $crate::macros::field!(unknown &self.$field, $t $(, $max)?) )*
            }
        }
    )* };
}

pub(crate) use {field, wire_struct};
