//! The system's GSSAPI library (MIT Kerberos), found when it is first asked for. Nothing but what is called is here, as RFC
//! 2744 and the library's `gssapi.h` have it.
//!
//! 1. Everything that the library gives is owned by a type that gives it back.
//! 2. A context is used by one thread at a time, as the library asks; which one does not matter to it.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::{null, null_mut};
use std::sync::OnceLock;

use super::Failure;

/// What the library is called where MIT Kerberos 5 1.x is.
const LIBRARY: &CStr = c"libgssapi_krb5.so.2";

/// `GSS_C_ACCEPT`.
const ACCEPT: c_int = 2;
/// `GSS_C_INDEFINITE`.
const INDEFINITE: u32 = u32::MAX;
/// `GSS_S_CONTINUE_NEEDED`.
const CONTINUE_NEEDED: u32 = 1;
/// The bits of a status that say that a call failed.
const ERRORS: u32 = 0xffff_0000;
/// What is wrong as GSSAPI sees it, and as the mechanism does.
const KINDS_OF_STATUS: [c_int; 2] = [1, 2];
/// Parts of the text of one status.
const MAX_TEXTS: usize = 8;

/// 1.2.840.113554.1.2.2, Kerberos 5.
const KRB5: &[u8] = b"\x2a\x86\x48\x86\xf7\x12\x01\x02\x02";
/// 1.2.840.113554.1.2.1.4, `GSS_C_NT_HOSTBASED_SERVICE`.
const HOSTBASED_SERVICE: &[u8] = b"\x2a\x86\x48\x86\xf7\x12\x01\x02\x01\x04";

/// Whatever the library hands out a pointer to.
type Opaque = *mut c_void;

#[repr(C)]
struct Oid {
    length: u32,
    elements: *const c_void,
}

impl Oid {
    fn new(elements: &'static [u8]) -> Self {
        Oid { length: elements.len() as u32, elements: elements.as_ptr().cast() }
    }
}

#[repr(C)]
struct OidSet {
    count: usize,
    elements: *const Oid,
}

#[repr(C)]
struct Buffer {
    length: usize,
    value: *const c_void,
}

impl Buffer {
    const EMPTY: Buffer = Buffer { length: 0, value: null() };

    fn of(bytes: &[u8]) -> Self {
        Buffer { length: bytes.len(), value: bytes.as_ptr().cast() }
    }
}

macro_rules! library {
    ($($name:ident: fn($($argument:ty),* $(,)?);)*) => {
        /// The library's functions, by their own names; each returns a status.
        pub(super) struct Library {
            $($name: unsafe extern "C" fn($($argument),*) -> u32,)*
        }

        impl Library {
            fn find(handle: Opaque) -> Result<Self, Failure> {
                Ok(Library {
                    $($name: {
                        let name = concat!(stringify!($name), "\0").as_ptr().cast();
                        // SAFETY: a live handle and a C string.
                        let address = unsafe { libc::dlsym(handle, name) };
                        if address.is_null() {
                            let (library, name) = (LIBRARY.to_string_lossy(), stringify!($name));
                            return Err(Failure(format!("{library} has no {name}")));
                        }
                        // SAFETY: the function of this name has this type in the library's ABI.
                        unsafe { std::mem::transmute::<Opaque, unsafe extern "C" fn($($argument),*) -> u32>(address) }
                    },)*
                })
            }
        }
    };
}

// The first argument is always where the mechanism's own status goes.
library! {
    gss_import_name: fn(*mut u32, *const Buffer, *const Oid, *mut Opaque);
    gss_release_name: fn(*mut u32, *mut Opaque);
    gss_display_name: fn(*mut u32, Opaque, *mut Buffer, *mut *const Oid);
    gss_acquire_cred: fn(*mut u32, Opaque, u32, *const OidSet, c_int, *mut Opaque, *mut Opaque, *mut u32);
    gss_release_cred: fn(*mut u32, *mut Opaque);
    gss_accept_sec_context: fn(
        *mut u32,
        *mut Opaque,
        Opaque,
        *const Buffer,
        Opaque,
        *mut Opaque,
        *mut *const Oid,
        *mut Buffer,
        *mut u32,
        *mut u32,
        *mut Opaque,
    );
    gss_delete_sec_context: fn(*mut u32, *mut Opaque, *mut Buffer);
    gss_wrap: fn(*mut u32, Opaque, c_int, u32, *const Buffer, *mut c_int, *mut Buffer);
    gss_unwrap: fn(*mut u32, Opaque, *const Buffer, *mut Buffer, *mut c_int, *mut u32);
    gss_wrap_size_limit: fn(*mut u32, Opaque, c_int, u32, u32, *mut u32);
    gss_display_status: fn(*mut u32, u32, c_int, *const Oid, *mut u32, *mut Buffer);
    gss_release_buffer: fn(*mut u32, *mut Buffer);
}

impl Library {
    /// The library, loaded when it is first asked for and kept until the process ends.
    pub(super) fn load() -> Result<&'static Library, Failure> {
        static LOADED: OnceLock<Result<Library, Failure>> = OnceLock::new();
        LOADED.get_or_init(Library::open).as_ref().map_err(Clone::clone)
    }

    fn open() -> Result<Library, Failure> {
        // SAFETY: a C string; loading runs the library's constructors, which set up its own tables.
        let handle = unsafe { libc::dlopen(LIBRARY.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if handle.is_null() {
            // SAFETY: the text of the failure just met, or null; copied before anything else can fail.
            let text = unsafe { text_of(libc::dlerror()) };
            let library = LIBRARY.to_string_lossy();
            return Err(Failure(format!("{library} cannot be loaded ({text}); it comes with MIT Kerberos")));
        }
        Library::find(handle)
    }

    /// Nothing, if a call went well.
    fn check(&self, what: &str, status: u32, minor: u32) -> Result<(), Failure> {
        if status & ERRORS == 0 {
            return Ok(());
        }
        let texts: Vec<String> = KINDS_OF_STATUS
            .into_iter()
            .flat_map(|kind| self.texts(if kind == KINDS_OF_STATUS[0] { status } else { minor }, kind))
            .collect();
        Err(Failure(format!("{what}: {}", texts.join("; "))))
    }

    /// What a status means, in words.
    fn texts(&self, status: u32, kind: c_int) -> Vec<String> {
        let krb5 = Oid::new(KRB5);
        let (mut more, mut texts) = (0, Vec::new());
        while texts.len() < MAX_TEXTS {
            let mut text = Given::new(self);
            let mut minor = 0;
            // SAFETY: pointers to values that outlive the call.
            let result = unsafe {
                (self.gss_display_status)(&mut minor, status, kind, &krb5, &mut more, &mut text.buffer)
            };
            if result & ERRORS != 0 {
                break;
            }
            texts.push(String::from_utf8_lossy(text.bytes()).into_owned());
            if more == 0 {
                break;
            }
        }
        texts
    }
}

/// # Safety
/// Null or a C string.
unsafe fn text_of(text: *const c_char) -> String {
    if text.is_null() {
        return "no reason given".to_string();
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// Bytes that the library has given.
struct Given<'a> {
    library: &'a Library,
    buffer: Buffer,
}

impl<'a> Given<'a> {
    fn new(library: &'a Library) -> Self {
        Given { library, buffer: Buffer::EMPTY }
    }

    fn bytes(&self) -> &[u8] {
        if self.buffer.value.is_null() {
            return &[];
        }
        // SAFETY: the library has given so many bytes, which stay until they are given back.
        unsafe { std::slice::from_raw_parts(self.buffer.value.cast(), self.buffer.length) }
    }
}

impl Drop for Given<'_> {
    fn drop(&mut self) {
        // SAFETY: empty, or what the library has given and was not given back yet.
        unsafe { (self.library.gss_release_buffer)(&mut 0, &mut self.buffer) };
    }
}

/// A name that the library has given.
struct Name<'a> {
    library: &'a Library,
    name: Opaque,
}

impl<'a> Name<'a> {
    /// That of a service on any host of whose keys there are some.
    fn of_service(library: &'a Library, service: &str) -> Result<Self, Failure> {
        let kind = Oid::new(HOSTBASED_SERVICE);
        let mut name = Name { library, name: null_mut() };
        let mut minor = 0;
        // SAFETY: pointers to values that outlive the call.
        let status = unsafe {
            (library.gss_import_name)(&mut minor, &Buffer::of(service.as_bytes()), &kind, &mut name.name)
        };
        library.check("the service's name is not taken", status, minor)?;
        Ok(name)
    }

    fn text(&self) -> Result<String, Failure> {
        let mut text = Given::new(self.library);
        let (mut minor, mut kind) = (0, null());
        // SAFETY: a name of the library's, and pointers to values that outlive the call.
        let status =
            unsafe { (self.library.gss_display_name)(&mut minor, self.name, &mut text.buffer, &mut kind) };
        self.library.check("the client's name cannot be read", status, minor)?;
        Ok(String::from_utf8_lossy(text.bytes()).into_owned())
    }
}

impl Drop for Name<'_> {
    fn drop(&mut self) {
        // SAFETY: null, or a name that was not given back yet.
        unsafe { (self.library.gss_release_name)(&mut 0, &mut self.name) };
    }
}

/// A service's keys.
pub(super) struct Keys {
    library: &'static Library,
    credential: Opaque,
}

// SAFETY: nothing in it belongs to a thread; it is used by one at a time.
unsafe impl Send for Keys {}

impl Keys {
    /// Those of the system's keytab. Reads files.
    pub(super) fn of_service(service: &str) -> Result<Self, Failure> {
        let library = Library::load()?;
        let name = Name::of_service(library, service)?;
        let krb5 = Oid::new(KRB5);
        let mechanisms = OidSet { count: 1, elements: &krb5 };
        let mut keys = Keys { library, credential: null_mut() };
        let mut minor = 0;
        // SAFETY: a name of the library's, and pointers to values that outlive the call or null where that is allowed.
        let status = unsafe {
            (library.gss_acquire_cred)(
                &mut minor,
                name.name,
                INDEFINITE,
                &mechanisms,
                ACCEPT,
                &mut keys.credential,
                null_mut(),
                null_mut(),
            )
        };
        library.check(&format!("no keys of the service '{service}'"), status, minor)?;
        Ok(keys)
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        // SAFETY: null, or a credential that was not given back yet.
        unsafe { (self.library.gss_release_cred)(&mut 0, &mut self.credential) };
    }
}

/// What two parties have in common once they know each other, or are about to.
pub(super) struct Context {
    library: &'static Library,
    context: Opaque,
}

// SAFETY: nothing in it belongs to a thread; it is used by one at a time.
unsafe impl Send for Context {}

/// How far a context has come.
pub(super) struct Step {
    /// What the client is to be sent; empty: nothing.
    pub(super) token: Vec<u8>,
    /// Who the client is, and what the context can do ([`INTEGRITY`] and others); `None`: it has to say more.
    pub(super) client: Option<(String, u32)>,
}

/// `GSS_C_MUTUAL_FLAG`.
pub(super) const MUTUAL: u32 = 2;
/// `GSS_C_SEQUENCE_FLAG`: messages are taken in their order, each once.
pub(super) const SEQUENCE: u32 = 8;
/// `GSS_C_CONF_FLAG`.
pub(super) const CONFIDENTIALITY: u32 = 16;
/// `GSS_C_INTEG_FLAG`.
pub(super) const INTEGRITY: u32 = 32;

impl Context {
    /// Nothing yet.
    pub(super) fn new() -> Result<Self, Failure> {
        Ok(Context { library: Library::load()?, context: null_mut() })
    }

    /// Looks at what the client says. May read and write files.
    pub(super) fn accept(&mut self, keys: &Keys, token: &[u8]) -> Result<Step, Failure> {
        let library = self.library;
        let mut client = Name { library, name: null_mut() };
        let mut answer = Given::new(library);
        let (mut minor, mut flags) = (0, 0);
        // SAFETY: a context and a credential of the library's, pointers to values that outlive the call, and null where
        // that is allowed. A context that could not be accepted is given back like any other.
        let status = unsafe {
            (library.gss_accept_sec_context)(
                &mut minor,
                &mut self.context,
                keys.credential,
                &Buffer::of(token),
                null_mut(),
                &mut client.name,
                null_mut(),
                &mut answer.buffer,
                &mut flags,
                null_mut(),
                null_mut(),
            )
        };
        library.check("the ticket is not accepted", status, minor)?;
        let client = match status & CONTINUE_NEEDED {
            0 => Some((client.text()?, flags)),
            _ => None,
        };
        Ok(Step { token: answer.bytes().to_vec(), client })
    }

    /// Appends a message in the form in which only the other party can have made it, or can read it.
    pub(super) fn wrap(
        &mut self,
        confidential: bool,
        plain: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        let mut wrapped = Given::new(self.library);
        let (mut minor, mut is_confidential) = (0, 0);
        // SAFETY: an accepted context, and pointers to values that outlive the call.
        let status = unsafe {
            (self.library.gss_wrap)(
                &mut minor,
                self.context,
                confidential.into(),
                0,
                &Buffer::of(plain),
                &mut is_confidential,
                &mut wrapped.buffer,
            )
        };
        self.library.check("wrapping", status, minor)?;
        if confidential && is_confidential == 0 {
            return Err(Failure("a message could not be encrypted".to_owned()));
        }
        out.extend_from_slice(wrapped.bytes());
        Ok(())
    }

    /// Gives `take` the message in a token, and whether it was encrypted. It is the other party's, in its place.
    pub(super) fn unwrap<R>(
        &mut self,
        token: &[u8],
        take: impl FnOnce(&[u8], bool) -> R,
    ) -> Result<R, Failure> {
        let mut plain = Given::new(self.library);
        let (mut minor, mut is_confidential, mut quality) = (0, 0, 0);
        // SAFETY: an accepted context, and pointers to values that outlive the call.
        let status = unsafe {
            (self.library.gss_unwrap)(
                &mut minor,
                self.context,
                &Buffer::of(token),
                &mut plain.buffer,
                &mut is_confidential,
                &mut quality,
            )
        };
        self.library.check("unwrapping", status, minor)?;
        // Complete as it may be, one that comes again, late or out of its turn is somebody else's doing.
        if status != 0 {
            let texts = self.library.texts(status, KINDS_OF_STATUS[0]);
            return Err(Failure(format!("unwrapping: {}", texts.join("; "))));
        }
        Ok(take(plain.bytes(), is_confidential != 0))
    }

    /// The longest message that is no longer than `most_bytes` when it is wrapped.
    pub(super) fn longest_plain_bytes(
        &mut self,
        confidential: bool,
        most_bytes: u32,
    ) -> Result<u32, Failure> {
        let (mut minor, mut longest) = (0, 0);
        // SAFETY: an accepted context, and pointers to values that outlive the call.
        let status = unsafe {
            (self.library.gss_wrap_size_limit)(
                &mut minor,
                self.context,
                confidential.into(),
                0,
                most_bytes,
                &mut longest,
            )
        };
        self.library.check("the size of messages", status, minor)?;
        Ok(longest)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: null, or a context that was not given back yet; no token is wanted.
        unsafe { (self.library.gss_delete_sec_context)(&mut 0, &mut self.context, null_mut()) };
    }
}
