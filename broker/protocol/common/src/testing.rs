//! What tests and fuzz targets of the protocols have in common.

use crate::{Login, LoginAnswer};

/// The answer of who knows one user, `guest` with the password `guest`, and those without a name. A login of several rounds
/// is had by saying nothing in the first one.
pub fn answer_to(login: &Login) -> LoginAnswer {
    if login.mechanism == "ANONYMOUS" {
        return LoginAnswer::accepted("guest");
    }
    let is_first = login.exchange.is_none();
    match login.response.as_deref() {
        None | Some(b"") if is_first => LoginAnswer::Challenge(Vec::new(), Box::new(())),
        response => match response.and_then(Login::plain) {
            Some((user, password)) if user == "guest" && password == b"guest" => {
                LoginAnswer::accepted("guest")
            }
            Some(_) => LoginAnswer::Refused("wrong password".to_owned()),
            None => LoginAnswer::Malformed("malformed response".to_owned()),
        },
    }
}
