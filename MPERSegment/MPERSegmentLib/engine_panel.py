"""Panel Engine: its state, local or remote, and diagnostics."""

from __future__ import annotations

import slicer
from MPERLib import engine as engines
from MPERLib import settings
from MPERLib.callbacks import slot
from MPERLib.engine import Engine
from MPERLib.engine_session import EngineSession
from MPERLib.formatting import sentence
from MPERLib.panel_context import PanelContext
from MPERLib.python_process import PythonProcess, module
from slicer.i18n import tr as _

_URL_KEY, _TOKEN_KEY, _CA_KEY = "MPER/RemoteUrl", "MPER/RemoteToken", "MPER/RemoteCertificate"
_WHERE_KEY = "MPER/EngineWhere"


def useLastEngine() -> None:
    """Use the remote engine of the last session again, if its token was saved and there is no engine yet."""
    url, token, ca = (settings.setting(key) for key in (_URL_KEY, _TOKEN_KEY, _CA_KEY))
    if getattr(slicer, "mperEngine", None) is None and settings.setting(_WHERE_KEY) == "remote" and url and token:
        engines.share(Engine.remote(url, token, ca or None))


class EnginePanel:
    """The choice between an engine on this computer and a remote one.

    Parameters
    ----------
    context : PanelContext
    session : EngineSession
    """

    def __init__(self, context: PanelContext, session: EngineSession):
        self._context, self._session = context, session
        self._doctor: PythonProcess | None = None
        ui = context.ui
        ui.urlEdit.text = settings.setting(_URL_KEY)
        ui.tokenEdit.text = settings.setting(_TOKEN_KEY)
        ui.caEdit.text = settings.setting(_CA_KEY)
        ui.rememberCheck.checked = bool(settings.setting(_TOKEN_KEY))
        ui.remoteRadio.checked = session.engine.isRemote
        ui.consentCheck.checked = session.engine.isRemote and session.engine.mayUpload
        ui.diagnosticsText.visible = False
        ui.remoteRadio.connect("toggled(bool)", slot(lambda _checked: self.show()))
        for edit in (ui.urlEdit, ui.tokenEdit):
            edit.connect("textChanged(QString)", slot(lambda _text: self.show()))
        ui.consentCheck.connect("toggled(bool)", slot(self._onConsent))
        ui.engineButton.connect("clicked()", slot(self._onStart))
        ui.diagnosticsButton.connect("clicked()", slot(self._onDiagnostics))
        ui.copyButton.connect("clicked()", slot(self._onCopy))
        self.show()

    def show(self) -> None:
        """Show the state of the engine, and what is missing to start it."""
        ui, engine = self._context.ui, self._session.engine
        remote = ui.remoteRadio.checked
        reason = engine.reason if engine.state == "failed" else ""
        ui.engineWords.text = sentence(reason) or self._session.stateText()
        ui.remoteFrame.visible = remote
        same = remote == engine.isRemote
        ui.engineButton.text = _("Connect") if remote else _("Restart") if same else _("Start")
        complete = bool(ui.urlEdit.text.strip() and ui.tokenEdit.text.strip() and ui.consentCheck.checked)
        ui.engineButton.enabled = not remote or complete
        ui.engineButton.toolTip = "" if ui.engineButton.enabled else _("Enter address and token, and give your consent")

    def stop(self) -> None:
        """End the diagnostics that are under way."""
        if self._doctor is not None:
            self._doctor.stop()
            self._doctor = None

    def _onConsent(self, agreed: bool) -> None:
        """Consent is withdrawn at once; it is given when Connect is pressed."""
        engine = self._session.engine
        if engine.isRemote and not agreed:
            engine.withdrawUpload()
        self.show()

    def _onStart(self) -> None:
        ui = self._context.ui
        self._context.clearMessage()
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

    # ---- diagnostics

    def _onDiagnostics(self) -> None:
        self._context.ui.diagnosticsText.visible = True
        if self._doctor is not None:
            return
        self._showDiagnostics(_("Collecting diagnostics \N{HORIZONTAL ELLIPSIS}"))
        if self._session.running:
            self._session.refreshInfo(lambda: self._showDiagnostics(self._session.engine.diagnostics()))
            return

        lines: list[str] = []

        def ended(reason: str | None) -> None:
            self._doctor = None
            last = [reason] if reason and reason not in lines else []
            self._showDiagnostics("\n".join([self._session.engine.diagnostics(), *lines, *last]))

        try:
            self._doctor = PythonProcess(module("mper", "doctor"), lines.append, ended)
        except OSError as error:
            ended(str(error))

    def _showDiagnostics(self, text: str) -> None:
        self._context.ui.diagnosticsText.plainText = text
        self._context.ui.copyButton.enabled = True

    def _onCopy(self) -> None:
        slicer.app.clipboard().setText(self._context.ui.diagnosticsText.plainText)
