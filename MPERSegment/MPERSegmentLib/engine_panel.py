"""Panel Engine: how it stands, where it runs, and what helps to find a fault."""

from __future__ import annotations

import slicer
from MPERLib import engine as engines
from MPERLib import install, settings
from MPERLib.callbacks import slot
from MPERLib.engine import Engine
from slicer.i18n import tr as _

from MPERSegmentLib.engine_session import EngineSession
from MPERSegmentLib.panel_context import PanelContext, sentence

_URL_KEY, _TOKEN_KEY, _CA_KEY = "MPER/RemoteUrl", "MPER/RemoteToken", "MPER/RemoteCertificate"
_WHERE_KEY = "MPER/EngineWhere"


def chooseLast() -> None:
    """Go back to the remote engine that the user worked with last, if its token was kept and no engine is there yet."""
    url, token, ca = (settings.setting(key) for key in (_URL_KEY, _TOKEN_KEY, _CA_KEY))
    if getattr(slicer, "mperEngine", None) is None and settings.setting(_WHERE_KEY) == "remote" and url and token:
        engines.share(Engine.remote(url, token, ca or None))


class EnginePanel:
    """Lets the user choose between an engine of this computer and a remote one.

    Parameters
    ----------
    context : PanelContext
    session : EngineSession
    """

    def __init__(self, context: PanelContext, session: EngineSession):
        self._context, self._session = context, session
        self._doctor: install.Run | None = None
        ui = context.ui
        ui.urlEdit.text = settings.setting(_URL_KEY)
        ui.tokenEdit.text = settings.setting(_TOKEN_KEY)
        ui.caEdit.text = settings.setting(_CA_KEY)
        ui.rememberCheck.checked = bool(settings.setting(_TOKEN_KEY))
        ui.remoteRadio.checked = session.engine.isRemote
        ui.consentCheck.checked = session.engine.isRemote and session.engine.mayUpload
        ui.diagnosticsText.visible = False
        ui.remoteRadio.connect("toggled(bool)", slot(self._onWhere))
        for edit in (ui.urlEdit, ui.tokenEdit):
            edit.connect("textChanged(QString)", slot(lambda _text: self.show()))
        ui.consentCheck.connect("toggled(bool)", slot(self._onConsent))
        ui.engineButton.connect("clicked()", slot(self._onStart))
        ui.diagnosticsButton.connect("clicked()", slot(self._onDiagnostics))
        ui.copyButton.connect("clicked()", slot(self._onCopy))
        self.show()

    def show(self) -> None:
        """Say how the engine stands."""
        ui = self._context.ui
        remote = ui.remoteRadio.checked
        reason = self._session.engine.reason if self._session.engine.state == "failed" else ""
        ui.engineWords.text = sentence(reason) or self._session.stateWords()
        ui.remoteFrame.visible = remote
        same = remote == self._session.engine.isRemote
        ui.engineButton.text = _("Connect") if remote else _("Start again") if same else _("Start")
        complete = bool(ui.urlEdit.text.strip() and ui.tokenEdit.text.strip() and ui.consentCheck.checked)
        ui.engineButton.enabled = not remote or complete
        ui.engineButton.toolTip = "" if ui.engineButton.enabled else _("Needs an address, a token and your agreement")

    def drop(self) -> None:
        if self._doctor is not None:
            self._doctor.abort()
            self._doctor = None

    def _onWhere(self, _checked: bool) -> None:
        self.show()

    def _onConsent(self, agreed: bool) -> None:
        """Agreement that is taken back counts at once; that which is given counts when Connect is pressed."""
        engine = self._session.engine
        if engine.isRemote and not agreed:
            engine.withdrawUpload()
        self.show()

    def _onStart(self) -> None:
        ui = self._context.ui
        self._context.hush()
        if ui.remoteRadio.checked:
            url, token, ca = (edit.text.strip() for edit in (ui.urlEdit, ui.tokenEdit, ui.caEdit))
            settings.setSetting(_URL_KEY, url)
            settings.setSetting(_CA_KEY, ca)
            settings.setSetting(_TOKEN_KEY, token if ui.rememberCheck.checked else "")
            engine = Engine.remote(url, token, ca or None)
            engine.agreeToUpload()
        else:
            engine = Engine.local()
        settings.setSetting(_WHERE_KEY, "remote" if engine.isRemote else "local")
        engines.share(engine)
        self._session.start()

    def _onDiagnostics(self) -> None:
        ui = self._context.ui
        ui.diagnosticsText.visible = True
        if self._doctor is not None:
            return
        self._tell(_("Looking \N{HORIZONTAL ELLIPSIS}"))
        if self._session.engine.state == "ready":
            self._session.askAgain(lambda: self._tell(self._session.engine.diagnostics()))
            return

        said: list[str] = []

        def told(*last: str) -> None:
            self._doctor = None
            self._tell("\n".join([self._session.engine.diagnostics(), *said, *last]))

        try:
            self._doctor = install.Run(install.module("mper", "doctor"), said.append, told, told)
        except OSError as error:
            told(str(error))

    def _tell(self, text: str) -> None:
        self._context.ui.diagnosticsText.plainText = text
        self._context.ui.copyButton.enabled = True

    def _onCopy(self) -> None:
        slicer.app.clipboard().setText(self._context.ui.diagnosticsText.plainText)
