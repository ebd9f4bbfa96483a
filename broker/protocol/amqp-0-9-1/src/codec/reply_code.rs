//! Reply codes (AMQP 0-9-1 §1.2).

macro_rules! reply_codes {
    ($($code:literal $name:ident $text:literal $hard:literal $doc:literal;)*) => {
        $(#[doc = $doc] pub const $name: u16 = $code;)*

        /// The code's name as brokers put it before the text of an error, `NOT_FOUND`; empty for unknown ones.
        pub fn name(code: u16) -> &'static str {
            match code {
                $($code => stringify!($name),)*
                _ => "",
            }
        }

        /// Whether an error with this code ends the connection, not only the channel.
        pub fn is_hard(code: u16) -> bool {
            match code {
                $($code => $hard,)*
                _ => true,
            }
        }

        #[cfg(test)]
        pub(super) const TABLE: &[(&str, u16, bool)] = &[$(($text, $code, $hard)),*];
    };
}

reply_codes! {
    200 REPLY_SUCCESS "reply-success" false "The method succeeded; an orderly close.";
    311 CONTENT_TOO_LARGE "content-too-large" false "The message is larger than the broker takes.";
    312 NO_ROUTE "no-route" false "A mandatory message reached no queue.";
    313 NO_CONSUMERS "no-consumers" false "An immediate message reached no consumer.";
    320 CONNECTION_FORCED "connection-forced" true "An operator or the broker's stop closed the connection.";
    402 INVALID_PATH "invalid-path" true "No such virtual host.";
    403 ACCESS_REFUSED "access-refused" false "The user may not do this.";
    404 NOT_FOUND "not-found" false "The thing named does not exist.";
    405 RESOURCE_LOCKED "resource-locked" false "Somebody else has it exclusively.";
    406 PRECONDITION_FAILED "precondition-failed" false "A condition of the request does not hold.";
    501 FRAME_ERROR "frame-error" true "A frame that cannot be decoded.";
    502 SYNTAX_ERROR "syntax-error" true "A frame with illegal values.";
    503 COMMAND_INVALID "command-invalid" true "A method that is not allowed at this time.";
    504 CHANNEL_ERROR "channel-error" true "A channel that is not open, or is so already.";
    505 UNEXPECTED_FRAME "unexpected-frame" true "A frame that is not allowed at this time.";
    506 RESOURCE_ERROR "resource-error" true "The broker is short of something.";
    530 NOT_ALLOWED "not-allowed" true "The broker's policy forbids it.";
    540 NOT_IMPLEMENTED "not-implemented" true "The broker cannot do this.";
    541 INTERNAL_ERROR "internal-error" true "The broker failed.";
}
